#include "serving/service_impl.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "serving/batcher.h"
#include "serving/classification.h"
#include "serving/config_check.h"
#include "serving/ensemble.h"
#include "serving/forward_scheduler.h"
#include "serving/validate.h"
#include "serving/warmup.h"

namespace siglip {
namespace {

// Ensembles after the models that they are made of; a cycle among ensembles is an error.
absl::StatusOr<std::vector<ModelConfig>> InLoadOrder(std::vector<ModelConfig> configs) {
  std::map<std::string, std::string> sources;
  for (const ModelConfig& config : configs) {
    const auto [it, is_new] = sources.emplace(config.name, config.source);
    if (!is_new) {
      return ConfigError(config, "name",
                         absl::StrCat("expected each name once, ", it->second, " has it too"));
    }
  }
  std::vector<ModelConfig> ordered;
  std::set<std::string> there;
  while (!configs.empty()) {
    const std::size_t before = configs.size();
    std::vector<ModelConfig> later;
    for (ModelConfig& config : configs) {
      const bool ready = std::all_of(config.ensemble_steps.begin(), config.ensemble_steps.end(),
                                     [&](const EnsembleStep& step) {
                                       return there.contains(step.model_name) ||
                                              !sources.contains(step.model_name);
                                     });
      if (ready) {
        there.insert(config.name);
        ordered.push_back(std::move(config));
      } else {
        later.push_back(std::move(config));
      }
    }
    configs = std::move(later);
    if (configs.size() == before) {
      return ConfigError(configs[0], "ensemble_scheduling",
                         "expected no cycle of ensembles, found one");
    }
  }
  return ordered;
}

std::int64_t InputBytes(const InferRequest& request) {
  std::size_t bytes = 0;
  for (const InputTensor& input : request.inputs) {
    bytes += input.data.size();
    for (const std::string_view element : input.elements) bytes += element.size();
  }
  return static_cast<std::int64_t>(bytes);
}

absl::Status ClassifyOutputs(const std::vector<RequestedOutput>& wanted, bool batched,
                             InferResponse& response) {
  for (OutputTensor& output : response.outputs) {
    for (const RequestedOutput& want : wanted) {
      if (want.name != output.name || want.classification <= 0) continue;
      SIGLIP_ASSIGN_OR_RETURN(output, Classify(output, want.classification, batched));
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

}  // namespace

ServiceImpl::ServiceImpl(const Clock& clock, const ServiceOptions& options)
    : clock_(clock),
      options_(options),
      input_budget_(std::make_shared<MemoryBudget>(options.max_input_bytes)),
      output_budget_(std::make_shared<MemoryBudget>(options.max_output_bytes)),
      forward_pool_(std::make_unique<ThreadPool>(std::max(1, options.num_forward_threads))) {}

ServiceImpl::~ServiceImpl() {
  BeginDrain();
  for (auto& [name, model] : models_) {
    if (model.scheduler != nullptr) model.scheduler->Stop();
  }
  // What is left in the pool is sent to stopped models, which refuse it.
  forward_pool_.reset();
}

absl::StatusOr<std::unique_ptr<ServiceImpl>> ServiceImpl::Load(std::vector<ModelConfig> configs,
                                                               DeploymentFactory& factory,
                                                               const Clock& clock,
                                                               const ServiceOptions& options) {
  auto service = std::unique_ptr<ServiceImpl>(new ServiceImpl(clock, options));
  SIGLIP_RETURN_IF_ERROR(service->LoadAll(std::move(configs), factory));
  return service;
}

absl::Status ServiceImpl::LoadAll(std::vector<ModelConfig> configs, DeploymentFactory& factory) {
  SIGLIP_ASSIGN_OR_RETURN(std::vector<ModelConfig> ordered, InLoadOrder(std::move(configs)));
  for (ModelConfig& config : ordered) SIGLIP_RETURN_IF_ERROR(LoadOne(std::move(config), factory));
  return absl::OkStatus();
}

absl::Status ServiceImpl::LoadOne(ModelConfig config, DeploymentFactory& factory) {
  LoadedModel& model = models_[config.name];
  const std::int64_t start_ns = clock_.NowNs();
  model.version =
      config.versions.empty()
          ? "1"
          : absl::StrCat(*std::max_element(config.versions.begin(), config.versions.end()));
  model.statistics = std::make_unique<StatisticsRecorder>(config.name, model.version, clock_);
  absl::Status status = CheckConfig(config);
  if (status.ok()) {
    status = config.is_ensemble() ? MakeEnsemble(config, model) : MakeModel(config, factory, model);
  }
  if (model.config == nullptr)
    model.config = std::make_shared<const ModelConfig>(std::move(config));
  model.statistics->SetLoadDuration(static_cast<double>(clock_.NowNs() - start_ns) * 1e-9);
  if (status.ok()) {
    SIGLIP_LOG_INFO("model_loaded name={} version={}", model.config->name, model.version);
    return status;
  }
  if (options_.exit_on_error) return status;
  SIGLIP_LOG_ERROR("model_load_failed name={} reason=\"{}\"", LogSafe(model.config->name),
                   LogSafe(std::string_view(status.message().data(), status.message().size())));
  model.unavailable_reason = std::string(status.message());
  return absl::OkStatus();
}

absl::Status ServiceImpl::MakeModel(ModelConfig& config, DeploymentFactory& factory,
                                    LoadedModel& model) {
  SIGLIP_ASSIGN_OR_RETURN(const Deployment deployment, factory.Make(config));
  SIGLIP_RETURN_IF_ERROR(CheckCompleted(config, deployment));
  NormalizeConfig(deployment, config);
  if (deployment.step != nullptr) SIGLIP_RETURN_IF_ERROR(WarmUp(config, *deployment.step));
  model.config = std::make_shared<const ModelConfig>(config);
  model.scheduler = MakeScheduler(config, deployment, model);
  return absl::OkStatus();
}

std::unique_ptr<Scheduler> ServiceImpl::MakeScheduler(const ModelConfig& config,
                                                      const Deployment& deployment,
                                                      LoadedModel& model) {
  if (deployment.forwarder != nullptr) {
    ModelAccess& access = *this;
    return std::make_unique<ForwardScheduler>(model.config, deployment.forwarder, access, clock_,
                                              *model.statistics, *forward_pool_);
  }
  auto batcher = std::make_unique<Batcher>(
      Batcher::Parts{.config = model.config,
                     .step = deployment.step,
                     .clock = &clock_,
                     .statistics = model.statistics.get(),
                     .budget = output_budget_,
                     .running_cost_bytes = options_.max_running_cost_bytes});
  batcher->Start(InstanceCount(config));
  return batcher;
}

absl::Status ServiceImpl::MakeEnsemble(ModelConfig& config, LoadedModel& model) {
  const auto find = [this](const EnsembleStep& step) {
    return ReadyConfig(step.model_name,
                       step.model_version > 0 ? absl::StrCat(step.model_version) : std::string());
  };
  SIGLIP_RETURN_IF_ERROR(CheckEnsemble(find, config));
  NormalizeConfig({}, config);
  model.config = std::make_shared<const ModelConfig>(config);
  ModelAccess& access = *this;
  model.scheduler =
      std::make_unique<EnsembleScheduler>(model.config, access, clock_, *model.statistics);
  return absl::OkStatus();
}

absl::StatusOr<const ServiceImpl::LoadedModel*> ServiceImpl::Find(
    const std::string& name, const std::string& version) const {
  const auto it = models_.find(name);
  if (it == models_.end()) {
    return absl::NotFoundError(
        absl::StrCat("Request for unknown model: '", name, "' is not found"));
  }
  if (!version.empty() &&
      ParseInt<std::int64_t>(version) != ParseInt<std::int64_t>(it->second.version)) {
    return absl::NotFoundError(
        absl::StrCat("Request for unknown model: '", name, "' version ", version, " is not found"));
  }
  return &it->second;
}

absl::StatusOr<const ServiceImpl::LoadedModel*> ServiceImpl::FindReady(
    const std::string& name, const std::string& version) const {
  SIGLIP_ASSIGN_OR_RETURN(const LoadedModel* model, Find(name, version));
  if (model->ready()) return model;
  return absl::UnavailableError(absl::StrCat("Request for unknown model: '", name, "' version ",
                                             model->version, " is not at ready state"));
}

absl::StatusOr<std::shared_ptr<const ModelConfig>> ServiceImpl::ReadyConfig(
    const std::string& name, const std::string& version) const {
  SIGLIP_ASSIGN_OR_RETURN(const LoadedModel* model, FindReady(name, version));
  return model->config;
}

bool ServiceImpl::Ready() const {
  if (draining_.load(std::memory_order_relaxed)) return false;
  return std::all_of(models_.begin(), models_.end(),
                     [](const auto& entry) { return entry.second.ready(); });
}

absl::Status ServiceImpl::ModelReady(const std::string& name, const std::string& version) const {
  SIGLIP_ASSIGN_OR_RETURN(const LoadedModel* model, Find(name, version));
  if (model->ready() && !draining_.load(std::memory_order_relaxed)) return absl::OkStatus();
  return absl::FailedPreconditionError("Model version not ready");
}

ServerMetadata ServiceImpl::Metadata() const {
  return {.name = options_.server_name,
          .version = options_.server_version,
          .extensions = options_.extensions};
}

absl::StatusOr<ModelMetadata> ServiceImpl::GetModelMetadata(const std::string& name,
                                                            const std::string& version) const {
  SIGLIP_ASSIGN_OR_RETURN(const LoadedModel* model, FindReady(name, version));
  const ModelConfig& config = *model->config;
  return ModelMetadata{.name = config.name,
                       .versions = {model->version},
                       .platform = config.platform.empty() ? config.backend : config.platform,
                       .inputs = WithBatchDim(config, config.inputs),
                       .outputs = WithBatchDim(config, config.outputs)};
}

absl::StatusOr<std::shared_ptr<const ModelConfig>> ServiceImpl::GetModelConfig(
    const std::string& name, const std::string& version) const {
  return ReadyConfig(name, version);
}

absl::StatusOr<std::vector<ModelStatistics>> ServiceImpl::GetStatistics(
    const std::string& name, const std::string& version) const {
  std::vector<ModelStatistics> rows;
  if (name.empty()) {
    for (const auto& [model_name, model] : models_) {
      if (model.ready()) rows.push_back(model.statistics->Snapshot());
    }
    return rows;
  }
  const absl::StatusOr<const LoadedModel*> model = FindReady(name, version);
  if (!model.ok()) {
    return absl::InvalidArgumentError(
        version.empty()
            ? absl::StrCat("requested model '", name, "' is not available")
            : absl::StrCat("requested model version is not available for model '", name, "'"));
  }
  rows.push_back((*model)->statistics->Snapshot());
  return rows;
}

std::vector<IndexRow> ServiceImpl::RepositoryIndex(bool ready_only) const {
  std::vector<IndexRow> rows;
  for (const auto& [name, model] : models_) {
    if (ready_only && !model.ready()) continue;
    rows.push_back({.name = name,
                    .version = model.version,
                    .state = model.ready() ? "READY" : "UNAVAILABLE",
                    .reason = model.unavailable_reason});
  }
  return rows;
}

absl::Status ServiceImpl::Admit(InferRequest& request) {
  if (draining_.load(std::memory_order_relaxed)) {
    return absl::UnavailableError(
        "Server is stopping, it has stopped accepting new inference requests");
  }
  if (inflight_.fetch_add(1, std::memory_order_relaxed) >= options_.max_inflight_requests) {
    Leave();
    return absl::UnavailableError(absl::StrCat("Exceeds maximum number of requests in flight, ",
                                               options_.max_inflight_requests));
  }
  const std::int64_t bytes = InputBytes(request);
  std::shared_ptr<MemoryBudget::Hold> hold = input_budget_->TryHold(bytes);
  if (hold == nullptr) {
    Leave();
    return absl::UnavailableError(
        absl::StrCat("Exceeds the memory for inputs of requests in flight: ", bytes,
                     " bytes more, the limit of all is ", options_.max_input_bytes));
  }
  request.done = [this, done = std::move(request.done), hold,
                  wanted = request.outputs](InferResponse response) mutable {
    if (response.status.ok()) {
      // The outputs' configuration is found again only if something is to be classified.
      const bool classify = std::any_of(wanted.begin(), wanted.end(), [](const RequestedOutput& o) {
        return o.classification > 0;
      });
      if (classify) {
        const auto model = Find(response.model_name, "");
        const bool batched = model.ok() && (*model)->config->max_batch_size > 0;
        if (absl::Status s = ClassifyOutputs(wanted, batched, response); !s.ok()) {
          response.status = s;
          response.outputs.clear();
        }
      }
    }
    hold.reset();
    done(std::move(response));
    done = nullptr;
    Leave();
  };
  return absl::OkStatus();
}

void ServiceImpl::Leave() {
  if (inflight_.fetch_sub(1, std::memory_order_relaxed) > 1) return;
  MutexLock lock(idle_mu_);
  idle_.NotifyAll();
}

void ServiceImpl::Infer(std::unique_ptr<InferRequest> request) {
  if (request->times.arrival_ns == 0) request->times.arrival_ns = clock_.NowNs();
  // A model that is not there is told before a door that is shut.
  if (auto model = FindReady(request->model_name, request->model_version); !model.ok()) {
    Refuse(std::move(request), model.status());
    return;
  }
  const std::string prefix = RequestPrefix(*request);
  if (absl::Status status = Admit(*request); !status.ok()) {
    Refuse(std::move(request), PrefixStatus(status, prefix));
    return;
  }
  Dispatch(std::move(request));
}

void ServiceImpl::Dispatch(std::unique_ptr<InferRequest> request) {
  const absl::StatusOr<const LoadedModel*> model =
      FindReady(request->model_name, request->model_version);
  if (!model.ok()) {
    Refuse(std::move(request), model.status());
    return;
  }
  request->model_version = (*model)->version;
  absl::Status status = DeduceInput(*(*model)->config, *request);
  if (status.ok()) status = ValidateRequest(*(*model)->config, *request);
  if (!status.ok()) {
    Refuse(std::move(request), std::move(status));
    return;
  }
  (*model)->scheduler->Enqueue(std::move(request));
}

void ServiceImpl::BeginDrain() { draining_.store(true, std::memory_order_relaxed); }

bool ServiceImpl::WaitUntilIdle(std::chrono::nanoseconds timeout) {
  // Real time: this waits for other threads, whatever clock the queues follow.
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(idle_mu_);
  while (inflight_requests() > 0) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= std::chrono::nanoseconds(0)) return false;
    idle_.WaitFor(idle_mu_, left);
  }
  return true;
}

}  // namespace siglip
