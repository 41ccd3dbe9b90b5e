#include "serving/model_control.h"

#include <algorithm>
#include <filesystem>
#include <new>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/no_memory.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "serving/batcher.h"
#include "serving/cache_scheduler.h"
#include "serving/config_check.h"
#include "serving/ensemble.h"
#include "serving/forward_scheduler.h"
#include "serving/warmup.h"

namespace siglip {
namespace {

namespace fs = std::filesystem;

// A request goes down all of them on one thread's stack.
constexpr int kMaxNestedEnsembles = 16;

std::string VersionOf(const ModelConfig& config) {
  if (config.versions.empty()) return "1";
  return absl::StrCat(*std::max_element(config.versions.begin(), config.versions.end()));
}

// Leaves the version that is served.
absl::Status ApplyVersionPolicy(ModelConfig& config) {
  const std::optional<std::vector<std::int64_t>>& kept = config.version_policy_specific;
  std::vector<std::int64_t>& versions = config.versions;
  if (versions.empty()) return absl::OkStatus();  // CheckConfig says so
  std::sort(versions.begin(), versions.end());
  const std::size_t latest = config.version_policy_latest.value_or(versions.size());
  if (kept) {
    std::erase_if(versions, [&kept](std::int64_t version) {
      return std::find(kept->begin(), kept->end(), version) == kept->end();
    });
  } else if (latest < versions.size()) {
    versions.erase(versions.begin(), versions.end() - static_cast<std::ptrdiff_t>(latest));
  }
  if (versions.size() == 1) return absl::OkStatus();
  if (!versions.empty()) {
    return ConfigError(
        config, "version_policy",
        absl::StrCat("expected one version to serve, got ", absl::StrJoin(versions, ", ")));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("at least one version must be available under the version policy of model '",
                   config.name, "'"));
}

bool HasStep(const ModelConfig& config, const std::string& name) {
  return std::any_of(config.ensemble_steps.begin(), config.ensemble_steps.end(),
                     [&](const EnsembleStep& step) { return step.model_name == name; });
}

bool HasStepAmong(const ModelConfig& config, const std::set<std::string>& names) {
  return std::any_of(
      config.ensemble_steps.begin(), config.ensemble_steps.end(),
      [&names](const EnsembleStep& step) { return names.contains(step.model_name); });
}

// The checkpoint of a configuration by one name, whatever it was written as; empty: it has none.
fs::path CheckpointOf(const ModelConfig& config) {
  const fs::path path = fs::path(config.checkpoint_folder()).lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

bool IsInside(const fs::path& path, const fs::path& folder) {
  const fs::path rest = path.lexically_relative(folder.lexically_normal());
  return !folder.empty() && !rest.empty() && *rest.begin() != "..";
}

// One level after the other of what is below an ensemble. Those that are ready have no cycle, until
// one of them is replaced.
absl::Status CheckNesting(const ModelTable& table, const ModelConfig& ensemble) {
  const auto error = [&ensemble](const std::string& text) {
    return ConfigError(ensemble, "ensemble_scheduling", text);
  };
  const auto add_steps = [](const ModelConfig& config, std::set<std::string>& names) {
    for (const EnsembleStep& step : config.ensemble_steps) names.insert(step.model_name);
  };
  std::set<std::string> level;
  add_steps(ensemble, level);
  for (int depth = 1; !level.empty(); ++depth) {
    if (level.contains(ensemble.name)) return error("expected no cycle of ensembles, found one");
    if (depth > kMaxNestedEnsembles) {
      return error(absl::StrCat("expected at most ", kMaxNestedEnsembles,
                                " ensembles within each other, got more"));
    }
    std::set<std::string> below;
    for (const std::string& name : level) {
      const auto found = table.ready().find(name);
      if (found != table.ready().end()) add_steps(*found->second->config, below);
    }
    level = std::move(below);
  }
  return absl::OkStatus();
}

std::string Text(const absl::Status& status) { return std::string(status.message()); }

// `status`: of ModelControl::LoadNow. As Triton, for which a configuration that is wrong is the
// repository's error, and what comes of a good one the client's.
absl::Status LoadError(const std::string& name, const absl::Status& status) {
  if (absl::IsInvalidArgument(status)) {
    return absl::InvalidArgumentError(
        absl::StrCat("load failed for model '", name, "': ", status.message()));
  }
  const std::string reason =
      absl::IsNotFound(status) ? "failed to poll from model repository" : Text(status);
  return absl::InternalError(absl::StrCat("failed to load '", name, "', ", reason));
}

}  // namespace

ModelControl::ModelControl(Parts parts)
    : parts_(std::move(parts)),
      threads_(std::make_shared<Budget>(parts_.options.max_model_threads)),
      models_(std::make_shared<Budget>(parts_.options.max_models)),
      worker_(std::make_unique<ThreadPool>(1)) {}

ModelControl::~ModelControl() {
  StopPolling();
  if (poller_.joinable()) poller_.join();
  worker_.reset();
}

absl::Status ModelControl::LoadInitial() {
  const ServiceOptions& options = parts_.options;
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::string> all, parts_.repository->Names());
  std::vector<std::string> names = all;
  if (options.control_mode == ModelControlMode::kExplicit) {
    names = options.load_models;
    if (std::find(names.begin(), names.end(), "*") != names.end()) names = all;
  }
  for (const std::string& name : names) {
    stamps_[name] = parts_.repository->Stamp(name);
    asked_for_.insert(name);
    if (parts_.registry->table()->ready().contains(name)) continue;  // as a step of an ensemble
    const absl::Status status = LoadWithRetries(name);
    if (!status.ok() && options.exit_on_error) return status;
  }
  return absl::OkStatus();
}

absl::Status ModelControl::LoadWithRetries(const std::string& name) {
  absl::Status status;
  for (int attempt = 0; attempt <= parts_.options.load_retries; ++attempt) {
    Names under_way;
    status = LoadNow(name, std::nullopt, under_way);
    if (status.ok()) break;
  }
  return status;
}

// Left as it was in the middle it would be LOADING, and the server not ready, until somebody loads
// it again.
absl::Status ModelControl::LoadNow(const std::string& name, std::optional<ModelConfig> config,
                                   Names& under_way) {
  try {
    return LoadOrThrow(name, std::move(config), under_way);
  } catch (const std::bad_alloc&) {
    under_way.erase(name);
    const absl::Status status = absl::InvalidArgumentError(NoMemory("model").message());
    Fail(name, status);
    return status;
  }
}

absl::Status ModelControl::LoadOrThrow(const std::string& name, std::optional<ModelConfig> config,
                                       Names& under_way) {
  absl::Status status;
  if (!config) {
    absl::StatusOr<ModelConfig> read = parts_.repository->Read(name);
    if (read.ok()) {
      config = *std::move(read);
    } else if (absl::IsNotFound(read.status())) {
      return read.status();
    } else {
      status = absl::InternalError(read.status().message());
    }
  }
  if (status.ok()) status = ApplyVersionPolicy(*config);
  parts_.registry->Begin(name, config ? VersionOf(*config) : "");
  if (status.ok() && !under_way.insert(name).second) {
    status =
        ConfigError(*config, "ensemble_scheduling", "expected no cycle of ensembles, found one");
  }
  if (status.ok()) {
    if (const absl::Status check = CheckConfig(*config); !check.ok()) {
      status = absl::InternalError(check.message());
    }
  }
  if (status.ok()) {
    for (const std::string& field : config->without_effect) {
      SIGLIP_LOG_WARN("config_without_effect name={} field={}", LogSafe(name), field);
    }
    status = LoadSteps(*config, under_way);
    if (status.ok()) status = Make(*std::move(config));
    if (!status.ok()) status = absl::InvalidArgumentError(status.message());
  }
  under_way.erase(name);
  if (status.ok()) {
    RemakeDependents(name);
  } else {
    Fail(name, status);
  }
  return status;
}

void ModelControl::Fail(const std::string& name, const absl::Status& status) {
  SIGLIP_LOG_ERROR("model_load_failed name={} reason=\"{}\"", LogSafe(name), LogSafe(Text(status)));
  if (InRepository(name) || parts_.registry->table()->ready().contains(name)) {
    parts_.registry->Fail(name, Text(status));
  } else {
    parts_.registry->Forget(name);
  }
}

// Models that an ensemble is made of come with it.
absl::Status ModelControl::LoadSteps(const ModelConfig& ensemble, Names& under_way) {
  for (const EnsembleStep& step : ensemble.ensemble_steps) {
    const bool cycle = under_way.contains(step.model_name);
    if (!cycle && parts_.registry->table()->ready().contains(step.model_name)) continue;
    const absl::Status status = LoadNow(step.model_name, std::nullopt, under_way);
    // That it is not in the repository is told with the step that names it.
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  return absl::OkStatus();
}

absl::Status ModelControl::Make(ModelConfig config) {
  try {
    return MakeOrThrow(std::move(config));
  } catch (const std::bad_alloc&) {
    return NoMemory("model");
  }
}

absl::Status ModelControl::MakeOrThrow(ModelConfig config) {
  const std::int64_t start_ns = parts_.clock->NowNs();
  auto model = std::make_unique<LoadedModel>();
  model->name = config.name;
  model->version = VersionOf(config);
  model->read = config;
  model->statistics = std::make_unique<StatisticsRecorder>(
      config.name, model->version, *parts_.clock, config.response_bounds_ms);
  SIGLIP_RETURN_IF_ERROR(HoldPlace(config, *model));
  // Clients are told what is so.
  config.response_cache = config.response_cache && parts_.cache != nullptr;
  SIGLIP_RETURN_IF_ERROR(config.is_ensemble() ? MakeEnsemble(config, *model)
                                              : MakeWork(config, *model));
  if (config.response_cache) {
    model->scheduler =
        std::make_unique<CacheScheduler>(std::move(model->scheduler), parts_.cache, *parts_.clock,
                                         *model->statistics, *parts_.lanes);
  }
  model->statistics->SetLoadDuration(static_cast<double>(parts_.clock->NowNs() - start_ns) * 1e-9);
  SIGLIP_LOG_INFO("model_loaded name={} version={}", model->name, model->version);
  if (parts_.options.control_mode == ModelControlMode::kPoll) made_.insert(model->name);
  waiting_.erase(model->name);
  parts_.registry->Finish(std::move(model));
  return absl::OkStatus();
}

absl::Status ModelControl::MakeWork(ModelConfig& config, LoadedModel& model) {
  SIGLIP_RETURN_IF_ERROR(CheckBackend(config));
  SIGLIP_ASSIGN_OR_RETURN(const Deployment deployment, parts_.factory->Make(config));
  SIGLIP_RETURN_IF_ERROR(CheckCompleted(config, deployment));
  NormalizeConfig(deployment, config);
  if (deployment.step != nullptr) {
    SIGLIP_RETURN_IF_ERROR(WarmUp(config, *deployment.step));
  } else if (!config.warmups.empty()) {
    // Other models do its work, and those may not be loaded yet.
    SIGLIP_LOG_WARN("model_warmup_without_effect name={}", LogSafe(config.name));
  }
  model.config = std::make_shared<const ModelConfig>(config);
  model.step = deployment.step;
  SIGLIP_ASSIGN_OR_RETURN(model.scheduler, MakeScheduler(deployment, model));
  return absl::OkStatus();
}

absl::Status ModelControl::MakeEnsemble(ModelConfig& config, LoadedModel& model) {
  const std::shared_ptr<ModelTable> table = parts_.registry->table();
  const auto find = [&table](const EnsembleStep& step) {
    return table->ReadyConfig(step.model_name, step.version());
  };
  SIGLIP_RETURN_IF_ERROR(CheckNesting(*table, config));
  SIGLIP_RETURN_IF_ERROR(CheckEnsemble(find, config));
  NormalizeConfig({}, config);
  model.config = std::make_shared<const ModelConfig>(config);
  if (config.ensemble_max_inflight_requests != 0) {
    SIGLIP_RETURN_IF_ERROR(HoldThreads(EnsembleScheduler::kThreads, model));
  }
  try {
    model.scheduler =
        std::make_unique<EnsembleScheduler>(model.config, *parts_.clock, *model.statistics);
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(absl::StrCat("no thread for its queue: ", error.what()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Scheduler>> ModelControl::MakeScheduler(const Deployment& deployment,
                                                                       LoadedModel& model) {
  if (deployment.forwarder != nullptr) {
    return std::make_unique<ForwardScheduler>(model.config, deployment.forwarder, *parts_.clock,
                                              *model.statistics, *parts_.lanes);
  }
  const int instances = InstanceCount(*model.config);
  SIGLIP_RETURN_IF_ERROR(HoldThreads(instances + Batcher::kOtherThreads, model));
  const auto on_lost = [tell = parts_.on_lost, name = model.name](const absl::Status& status) {
    if (tell) tell(name, status);
  };
  auto batcher = std::make_unique<Batcher>(
      Batcher::Parts{.config = model.config,
                     .step = deployment.step,
                     .clock = parts_.clock,
                     .statistics = model.statistics.get(),
                     .budget = parts_.output_budget,
                     .running_cost_bytes = parts_.options.max_running_cost_bytes,
                     .on_lost = on_lost});
  SIGLIP_RETURN_IF_ERROR(batcher->Start(instances));
  return batcher;
}

absl::Status ModelControl::HoldPlace(const ModelConfig& config, LoadedModel& model) const {
  const std::shared_ptr<ModelTable> table = parts_.registry->table();
  if (const auto older = table->ready().find(model.name); older != table->ready().end()) {
    model.place = older->second->place;
  } else if (const auto waits = waiting_.find(model.name); waits != waiting_.end()) {
    model.place = waits->second.place;
  } else {
    model.place = models_->TryHold(1);
  }
  if (model.place != nullptr) return absl::OkStatus();
  return ConfigError(config, "name",
                     absl::StrCat("expected at most ", models_->limit(),
                                  " models (--max-models), as many are there"));
}

absl::Status ModelControl::HoldThreads(int threads, LoadedModel& model) const {
  // Not even alone may a model have more than all.
  if (threads <= threads_->limit()) model.threads = threads_->TryHold(threads);
  if (model.threads != nullptr) return absl::OkStatus();
  return ConfigError(*model.config,
                     model.config->is_ensemble() ? "ensemble_scheduling" : "instance_group",
                     absl::StrCat("expected at most ", threads_->limit(),
                                  " threads of all models together (--max-model-threads), ",
                                  threads_->held(), " are there and this one needs ", threads));
}

std::vector<std::shared_ptr<const LoadedModel>> ModelControl::EnsemblesOf(
    const std::string& name) const {
  std::vector<std::shared_ptr<const LoadedModel>> found;
  const std::shared_ptr<ModelTable> table = parts_.registry->table();
  for (const auto& [other, model] : table->ready()) {
    if (HasStep(*model->config, name)) found.push_back(model);
  }
  return found;
}

std::vector<std::shared_ptr<const LoadedModel>> ModelControl::DependentsOf(
    const std::string& name) const {
  const std::shared_ptr<ModelTable> table = parts_.registry->table();
  Names above = {name};
  for (bool grew = true; grew;) {
    grew = false;
    for (const auto& [other, model] : table->ready()) {
      if (!above.contains(other) && HasStepAmong(*model->config, above)) {
        grew = above.insert(other).second;
      }
    }
  }
  above.erase(name);
  std::vector<std::shared_ptr<const LoadedModel>> ordered;
  // Those whose steps are all done; there is no cycle (CheckNesting).
  for (std::size_t before = SIZE_MAX; !above.empty() && above.size() != before;) {
    before = above.size();
    Names done;
    for (const std::string& next : above) {
      const auto& model = table->ready().at(next);
      if (HasStepAmong(*model->config, above)) continue;
      ordered.push_back(model);
      done.insert(next);
    }
    for (const std::string& next : done) above.erase(next);
  }
  return ordered;
}

// The ensembles over a model that was loaded anew are checked against its new tensors, each once,
// after the ensembles that it has as steps.
void ModelControl::RemakeDependents(const std::string& name) {
  for (const auto& ensemble : DependentsOf(name)) {
    // It went with one of its steps.
    if (!parts_.registry->table()->ready().contains(ensemble->name)) continue;
    const absl::Status status = Make(ensemble->read);
    if (status.ok()) continue;
    SIGLIP_LOG_ERROR("model_unloaded name={} reason=\"{}\"", LogSafe(ensemble->name),
                     LogSafe(Text(status)));
    LetWait(*ensemble);
    parts_.registry->Unload(ensemble->name, Text(status), false);
    UnloadDependents(ensemble->name);
  }
}

void ModelControl::UnloadDependents(const std::string& name) {
  for (const auto& ensemble : EnsemblesOf(name)) {
    // It went with another of its steps.
    if (!parts_.registry->table()->ready().contains(ensemble->name)) continue;
    const std::string reason = absl::StrCat("ensemble '", ensemble->name, "' depends on '", name,
                                            "' which has no loaded version");
    SIGLIP_LOG_WARN("model_unloaded name={} reason=\"{}\"", LogSafe(ensemble->name),
                    LogSafe(reason));
    if (parts_.options.control_mode == ModelControlMode::kPoll) {
      // Nobody asked for it: readiness waits until its step is back, as Triton's does.
      parts_.registry->Unload(ensemble->name, reason, false);
    } else {
      LetWait(*ensemble);
      TakeOut(ensemble->name, reason);
    }
    UnloadDependents(ensemble->name);
  }
}

void ModelControl::LetWait(const LoadedModel& ensemble) {
  if (parts_.options.control_mode != ModelControlMode::kExplicit) return;
  waiting_.insert_or_assign(ensemble.name, Waiting{ensemble.read, ensemble.place});
}

void ModelControl::ReviveWaiting() {
  bool revived = true;
  while (revived) {  // one that is back may be another's step
    revived = false;
    const std::shared_ptr<ModelTable> table = parts_.registry->table();
    for (const auto& [name, ensemble] : std::map<std::string, Waiting>(waiting_)) {
      const ModelConfig& config = ensemble.config;
      const auto ready = [&table](const EnsembleStep& step) {
        return table->ready().contains(step.model_name);
      };
      if (!std::all_of(config.ensemble_steps.begin(), config.ensemble_steps.end(), ready)) continue;
      if (const absl::Status status = Make(config); status.ok()) {
        revived = true;
      } else {
        SIGLIP_LOG_WARN("model_waits name={} reason=\"{}\"", LogSafe(name), LogSafe(Text(status)));
      }
    }
  }
}

bool ModelControl::IsStepOfAny(const std::string& name) const {
  const auto waits = [&name](const auto& entry) { return HasStep(entry.second.config, name); };
  return !EnsemblesOf(name).empty() || std::any_of(waiting_.begin(), waiting_.end(), waits);
}

bool ModelControl::InRepository(const std::string& name) const {
  const absl::StatusOr<std::vector<std::string>> names = parts_.repository->Names();
  // While it cannot be read nothing is known to be gone.
  return !names.ok() || std::find(names->begin(), names->end(), name) != names->end();
}

absl::Status ModelControl::CheckCheckpoint(const ModelConfig& config) const {
  const fs::path path = CheckpointOf(config);
  if (path.empty() || IsInside(path, config.directory)) return absl::OkStatus();
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::string> names, parts_.repository->Names());
  for (const std::string& name : names) {
    const auto read = parts_.repository->Read(name);
    if (read.ok() && CheckpointOf(*read) == path) return absl::OkStatus();
  }
  // Whatever is there, or is not: clients learn nothing of the file system.
  return ConfigError(config, "parameters.checkpoint",
                     "expected one in the model's folder, or of a model of the repository");
}

void ModelControl::TakeOut(const std::string& name, const std::string& reason) {
  if (InRepository(name)) {
    parts_.registry->Unload(name, reason, true);
  } else {
    parts_.registry->Forget(name);
  }
}

absl::Status ModelControl::UnloadNow(const std::string& name, bool unload_dependents) {
  const std::shared_ptr<ModelTable> table = parts_.registry->table();
  const auto found = table->ready().find(name);
  std::vector<EnsembleStep> steps;
  if (found != table->ready().end()) {
    SIGLIP_LOG_INFO("model_unloaded name={} version={}", LogSafe(name), found->second->version);
    steps = found->second->config->ensemble_steps;
  } else if (table->IsUnavailable(name)) {
    // If its load failed, readiness waits for it no longer.
    if (const auto waits = waiting_.find(name); waits != waiting_.end()) {
      steps = waits->second.config.ensemble_steps;
    }
  } else if (InRepository(name)) {
    return absl::OkStatus();
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("failed to unload '", name, "', model is not in the repository"));
  }
  asked_for_.erase(name);
  waiting_.erase(name);
  TakeOut(name, "unloaded");
  UnloadDependents(name);
  if (!unload_dependents) return absl::OkStatus();
  for (const EnsembleStep& step : steps) {
    const std::string& model = step.model_name;
    if (asked_for_.contains(model) || IsStepOfAny(model)) continue;
    if (parts_.registry->table()->ready().contains(model)) {
      SIGLIP_RETURN_IF_ERROR(UnloadNow(model, true));
    }
  }
  return absl::OkStatus();
}

void ModelControl::Load(LoadModelRequest request, std::function<void(absl::Status)> done) {
  if (parts_.options.control_mode != ModelControlMode::kExplicit) return done(ControlRefused());
  worker_->Submit([this, request = std::move(request), done = std::move(done)]() mutable {
    Names under_way;
    const std::string name = request.name;
    std::optional<ModelConfig> config = std::move(request.config);
    if (config) {
      // The files around the configuration stay the repository's.
      config->name = name;
      config->source = "load request";
      config->versions = {1};
      if (const auto read = parts_.repository->Read(name); read.ok()) {
        config->directory = read->directory;
        config->versions = read->versions;
      }
    }
    absl::Status status = config ? CheckCheckpoint(*config) : absl::OkStatus();
    if (status.ok()) status = LoadNow(name, std::move(config), under_way);
    ReviveWaiting();
    if (status.ok()) {
      asked_for_.insert(name);
      return done(status);
    }
    done(LoadError(name, status));
  });
}

void ModelControl::Unload(std::string name, bool unload_dependents,
                          std::function<void(absl::Status)> done) {
  if (parts_.options.control_mode != ModelControlMode::kExplicit) return done(ControlRefused());
  worker_->Submit([this, name = std::move(name), unload_dependents, done = std::move(done)] {
    done(UnloadNow(name, unload_dependents));
  });
}

void ModelControl::Poll() {
  const absl::StatusOr<std::vector<std::string>> read = parts_.repository->Names();
  if (!read.ok()) {
    // A file system that does not answer (EIO, ESTALE) has not lost its models.
    SIGLIP_LOG_WARN("repository_unreadable reason=\"{}\", nothing is changed",
                    LogSafe(Text(read.status())));
    return;
  }
  const std::vector<std::string>& names = *read;
  std::vector<std::string> gone;
  for (const auto& [name, stamp] : stamps_) {
    if (!std::binary_search(names.begin(), names.end(), name)) gone.push_back(name);
  }
  for (const std::string& name : gone) {
    SIGLIP_LOG_INFO("model_unloaded name={} reason=\"gone from the repository\"", LogSafe(name));
    stamps_.erase(name);
    parts_.registry->Forget(name);
    UnloadDependents(name);
  }
  // Before anything is loaded: what changes meanwhile is for the next poll.
  std::map<std::string, std::uint64_t> stamps;
  for (const std::string& name : names) stamps[name] = parts_.repository->Stamp(name);
  made_.clear();
  for (const auto& [name, stamp] : stamps) {
    if (StopsPolling()) return;
    const auto known = stamps_.find(name);
    if (known != stamps_.end() && known->second == stamp) continue;
    stamps_[name] = stamp;
    if (made_.contains(name)) continue;  // as a step of an ensemble
    Names under_way;
    // A failure is logged and shown by the index; an older model serves on.
    static_cast<void>(LoadNow(name, std::nullopt, under_way));
  }
  LoadWaitingEnsembles();
}

// An ensemble that lacked a step, or did not fit one, has not changed itself when the step comes.
void ModelControl::LoadWaitingEnsembles() {
  // Each round is for what the one before it loaded, so it ends.
  while (!made_.empty()) {
    const Names made = std::exchange(made_, {});
    for (const auto& [name, stamp] : stamps_) {
      if (StopsPolling()) return;
      if (parts_.registry->table()->ready().contains(name)) continue;
      const auto config = parts_.repository->Read(name);
      const auto has = [&config](const std::string& step) { return HasStep(*config, step); };
      if (!config.ok() || std::none_of(made.begin(), made.end(), has)) continue;
      Names under_way;
      static_cast<void>(LoadNow(name, std::nullopt, under_way));
    }
  }
}

void ModelControl::StartPolling() {
  if (parts_.options.control_mode != ModelControlMode::kPoll) return;
  poller_ = std::thread([this] { Repeat([this] { return FollowRepository(); }); });
}

void ModelControl::StopPolling() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  wake_.NotifyAll();
}

bool ModelControl::StopsPolling() {
  MutexLock lock(mu_);
  return stopping_;
}

bool ModelControl::FollowRepository() {
  {
    // Real time: files change by the world's clock.
    const auto next = std::chrono::steady_clock::now() + parts_.options.poll_interval;
    MutexLock lock(mu_);
    while (!stopping_) {
      const auto left = next - std::chrono::steady_clock::now();
      if (left <= left.zero()) break;
      wake_.WaitFor(mu_, left);
    }
    if (stopping_) return false;
  }
  Poll();
  return true;
}

}  // namespace siglip
