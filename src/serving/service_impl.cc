#include "serving/service_impl.h"

#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "serving/classification.h"
#include "serving/overload.h"
#include "serving/validate.h"

namespace siglip {
namespace {

absl::Status ClassifyOutputs(const std::vector<RequestedOutput>& wanted, bool batched,
                             InferResponse& response) {
  for (OutputTensor& output : response.outputs) {
    for (const RequestedOutput& want : wanted) {
      if (want.name != output.name || want.classification <= 0) continue;
      try {
        SIGLIP_ASSIGN_OR_RETURN(output, Classify(output, want.classification, batched));
      } catch (const std::bad_alloc&) {
        return absl::ResourceExhaustedError(
            absl::StrCat("output '", output.name, "': no memory for its classification"));
      }
      break;
    }
  }
  return absl::OkStatus();
}

std::vector<TensorConfig> WithBatchDim(const ModelConfig& config,
                                       std::vector<TensorConfig> tensors) {
  if (config.max_batch_size < 1) return tensors;
  for (TensorConfig& tensor : tensors) tensor.dims.insert(tensor.dims.begin(), -1);
  return tensors;
}

ModelStatistics StatisticsOf(const LoadedModel& model) {
  ModelStatistics statistics = model.statistics->Snapshot();
  statistics.metric_tags = model.config->metric_tags;
  statistics.cached = model.config->response_cache;
  if (model.step != nullptr) statistics.step = model.step->Counters();
  return statistics;
}

}  // namespace

absl::Status ControlRefused() {
  return absl::UnavailableError(
      "explicit model load / unload is not allowed if polling is enabled");
}

ServiceImpl::ServiceImpl(std::unique_ptr<ModelRepository> repository, DeploymentFactory& factory,
                         const Clock& clock, const ServiceOptions& options)
    : clock_(clock),
      options_(options),
      input_budget_(std::make_shared<Budget>(options.max_input_bytes)),
      output_budget_(std::make_shared<Budget>(options.max_output_bytes)),
      lanes_(std::make_unique<WorkLanes>(clock, std::max(1, options.num_forward_threads))),
      repository_(std::move(repository)),
      cache_(options.cache_bytes > 0 ? std::make_shared<ResponseCache>(options.cache_bytes)
                                     : nullptr),
      control_(std::make_unique<ModelControl>(ModelControl::Parts{
          .registry = &registry_,
          .repository = repository_.get(),
          .factory = &factory,
          .clock = &clock,
          .output_budget = output_budget_,
          .lanes = lanes_.get(),
          .on_lost = [this](const std::string& model,
                            const absl::Status& status) { Lose(model, status); },
          .cache = cache_,
          .options = options})) {}

ServiceImpl::~ServiceImpl() {
  BeginDrain();
  control_.reset();
  registry_.StopAll();
  // Refuses what is left there.
  lanes_.reset();
}

absl::StatusOr<std::unique_ptr<ServiceImpl>> ServiceImpl::Open(
    std::unique_ptr<ModelRepository> repository, DeploymentFactory& factory, const Clock& clock,
    const ServiceOptions& options) {
  auto service =
      std::unique_ptr<ServiceImpl>(new ServiceImpl(std::move(repository), factory, clock, options));
  SIGLIP_RETURN_IF_ERROR(service->control_->LoadInitial());
  service->control_->StartPolling();
  return service;
}

absl::StatusOr<std::unique_ptr<ServiceImpl>> ServiceImpl::Load(std::vector<ModelConfig> configs,
                                                               DeploymentFactory& factory,
                                                               const Clock& clock,
                                                               const ServiceOptions& options) {
  SIGLIP_RETURN_IF_ERROR(CheckNames(configs));
  return Open(std::make_unique<ListedModels>(std::move(configs)), factory, clock, options);
}

bool ServiceImpl::Ready() const {
  if (closed()) return false;
  if (!options_.strict_readiness) return true;
  const std::shared_ptr<ModelTable> table = registry_.table();
  const bool all_can_run =
      std::all_of(table->ready().begin(), table->ready().end(), [](const auto& entry) {
        return entry.second->step == nullptr || entry.second->step->Readiness().ok();
      });
  return all_can_run && registry_.AllReady();
}

absl::Status ServiceImpl::ModelReady(const std::string& name, const std::string& version) const {
  const std::shared_ptr<ModelTable> table = registry_.table();
  const absl::StatusOr<const LoadedModel*> found = table->Find(name, version);
  const bool can_run =
      found.ok() && ((*found)->step == nullptr || (*found)->step->Readiness().ok());
  if (can_run && !closed()) return absl::OkStatus();
  if (absl::IsInvalidArgument(found.status())) return found.status();  // no version at all
  return absl::FailedPreconditionError("Model version not ready");
}

ServerMetadata ServiceImpl::Metadata() const {
  return {.name = options_.server_name,
          .version = options_.server_version,
          .extensions = options_.extensions};
}

absl::StatusOr<ModelMetadata> ServiceImpl::GetModelMetadata(const std::string& name,
                                                            const std::string& version) const {
  const std::shared_ptr<ModelTable> table = registry_.table();
  SIGLIP_ASSIGN_OR_RETURN(const LoadedModel* model, table->Find(name, version));
  const ModelConfig& config = *model->config;
  return ModelMetadata{.name = config.name,
                       .versions = {model->version},
                       .platform = config.platform.empty() ? config.backend : config.platform,
                       .inputs = WithBatchDim(config, config.inputs),
                       .outputs = WithBatchDim(config, config.outputs)};
}

absl::StatusOr<std::shared_ptr<const ModelConfig>> ServiceImpl::GetModelConfig(
    const std::string& name, const std::string& version) const {
  return registry_.table()->ReadyConfig(name, version);
}

std::optional<CacheStatistics> ServiceImpl::GetCacheStatistics() const {
  if (cache_ == nullptr) return std::nullopt;
  return cache_->Statistics();
}

absl::StatusOr<std::vector<ModelStatistics>> ServiceImpl::GetStatistics(
    const std::string& name, const std::string& version) const {
  std::vector<ModelStatistics> rows;
  const std::shared_ptr<ModelTable> table = registry_.table();
  const absl::StatusOr<const LoadedModel*> model = table->Find(name, version);
  if (absl::IsInvalidArgument(model.status())) return model.status();  // no version at all
  if (name.empty()) {
    for (const auto& [model_name, ready] : table->ready()) {
      rows.push_back(StatisticsOf(*ready));
    }
    return rows;
  }
  if (!model.ok()) {
    return absl::InvalidArgumentError(
        table->ready().contains(name)
            ? absl::StrCat("requested model version is not available for model '", name, "'")
            : absl::StrCat("requested model '", name, "' is not available"));
  }
  rows.push_back(StatisticsOf(**model));
  return rows;
}

std::vector<IndexRow> ServiceImpl::RepositoryIndex(bool ready_only) const {
  std::vector<IndexRow> rows = registry_.Index();
  if (ready_only) {
    std::erase_if(rows, [](const IndexRow& row) { return row.state != "READY"; });
    return rows;
  }
  // What was never loaded has a name alone, which only the repository knows.
  const absl::StatusOr<std::vector<std::string>> names = repository_->Names();
  for (const std::string& name : names.ok() ? *names : std::vector<std::string>()) {
    const bool known = std::any_of(rows.begin(), rows.end(),
                                   [&name](const IndexRow& row) { return row.name == name; });
    if (!known) rows.push_back({.name = name});
  }
  std::sort(rows.begin(), rows.end(),
            [](const IndexRow& a, const IndexRow& b) { return a.name < b.name; });
  return rows;
}

void ServiceImpl::LoadModel(LoadModelRequest request, std::function<void(absl::Status)> done) {
  control_->Load(std::move(request), std::move(done));
}

void ServiceImpl::UnloadModel(const std::string& name, bool unload_dependents,
                              std::function<void(absl::Status)> done) {
  control_->Unload(name, unload_dependents, std::move(done));
}

absl::Status ServiceImpl::Admit(InferRequest& request, bool batched) {
  // Its own place is given back when it has this one.
  const bool has_place = request.place != nullptr;
  if (!has_place) SIGLIP_RETURN_IF_ERROR(CheckOpen());
  SIGLIP_RETURN_IF_ERROR(Enter(has_place ? 1 : 0));
  // Left whatever becomes of the request.
  std::shared_ptr<const void> entered(this, [this](const void*) { Leave(); });
  const auto bytes = static_cast<std::int64_t>(HeldBytes(request));
  std::shared_ptr<Budget::Hold> hold = input_budget_->TryHold(bytes);
  if (hold == nullptr) {
    return OverloadedError(
        absl::StrCat("Exceeds the memory for inputs of requests in flight: ", bytes,
                     " bytes more, the limit of all is ", options_.max_input_bytes));
  }
  request.done = [entered = std::move(entered), done = std::move(request.done), hold, batched,
                  wanted = request.outputs](InferResponse response) mutable {
    if (response.status.ok()) {
      if (absl::Status s = ClassifyOutputs(wanted, batched, response); !s.ok()) {
        response.status = s;
        response.outputs.clear();
      }
    }
    if (Log().should_log(spdlog::level::debug)) {
      SIGLIP_LOG_DEBUG("infer model={} version={} id={} status={}", LogSafe(response.model_name),
                       response.model_version, LogSafe(response.id),
                       absl::StatusCodeToString(response.status.code()));
    }
    hold.reset();
    done(std::move(response));
    done = nullptr;
    entered.reset();
  };
  return absl::OkStatus();
}

absl::Status ServiceImpl::CheckOpen() const {
  if (!draining_.load(std::memory_order_relaxed)) return absl::OkStatus();
  return absl::UnavailableError(
      "Server is stopping, it has stopped accepting new inference requests");
}

absl::Status ServiceImpl::Enter(std::int64_t over) {
  const std::int64_t limit = options_.max_inflight_requests;
  if (inflight_.fetch_add(1, std::memory_order_relaxed) < limit + over) return absl::OkStatus();
  Leave();
  return OverloadedError(absl::StrCat("Exceeds maximum number of requests in flight, ", limit));
}

absl::StatusOr<std::shared_ptr<const void>> ServiceImpl::TakePlace() {
  SIGLIP_RETURN_IF_ERROR(CheckOpen());
  SIGLIP_RETURN_IF_ERROR(Enter(0));
  return std::shared_ptr<const void>(this, [this](const void*) { Leave(); });
}

void ServiceImpl::Leave() {
  if (inflight_.fetch_sub(1, std::memory_order_relaxed) > 1) return;
  MutexLock lock(idle_mu_);
  idle_.NotifyAll();
}

void ServiceImpl::Infer(std::unique_ptr<InferRequest> request) {
  request->accepted_ns = clock_.NowNs();
  if (request->times.arrival_ns == 0) request->times.arrival_ns = request->accepted_ns;
  const std::shared_ptr<ModelTable> table = registry_.table();
  // A model that is not there is told before a door that is shut.
  const auto model = table->Find(request->model_name, request->model_version);
  if (!model.ok()) {
    Refuse(std::move(request), model.status());
    return;
  }
  const std::string prefix = RequestPrefix(*request);
  const bool batched = (*model)->config->max_batch_size > 0;
  if (absl::Status status = Admit(*request, batched); !status.ok()) {
    Refuse(std::move(request), PrefixStatus(status, prefix));
    return;
  }
  request->place.reset();
  table->InferWithin(std::move(request));
}

bool ServiceImpl::closed() const {
  return draining_.load(std::memory_order_relaxed) || lost_.load(std::memory_order_relaxed);
}

// Only a new process can help, so all of this one's models count as not ready.
void ServiceImpl::Lose(const std::string& model, const absl::Status& status) {
  if (lost_.exchange(true, std::memory_order_relaxed)) return;
  SIGLIP_LOG_ERROR("model_lost name={} reason=\"{}\"", LogSafe(model),
                   LogSafe(std::string(status.message())));
  if (options_.on_lost) options_.on_lost(status);
}

void ServiceImpl::BeginDrain() {
  draining_.store(true, std::memory_order_relaxed);
  control_->StopPolling();
}

bool ServiceImpl::WaitUntilIdle(std::chrono::nanoseconds timeout) {
  // Real time: this waits for other threads, whatever clock the queues follow.
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(idle_mu_);
  while (InflightRequests() > 0) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= std::chrono::nanoseconds(0)) return false;
    idle_.WaitFor(idle_mu_, left);
  }
  return true;
}

}  // namespace siglip
