#pragma once

// Loads and unloads models: at start, on request (explicit mode), or as the repository's files
// change (poll mode). One thread does all of it, one thing after the other.

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/thread_pool.h"
#include "serving/budget.h"
#include "serving/deployment.h"
#include "serving/model_registry.h"
#include "serving/model_repository.h"
#include "serving/options.h"
#include "serving/response_cache.h"
#include "serving/service.h"

namespace siglip {

// Thread-safe.
class ModelControl {
 public:
  struct Parts {
    ModelRegistry* registry = nullptr;  // borrowed, as all pointers here
    ModelRepository* repository = nullptr;
    DeploymentFactory* factory = nullptr;  // used by one thread at a time
    const Clock* clock = nullptr;
    std::shared_ptr<Budget> output_budget;
    WorkLanes* lanes = nullptr;
    // Told the model's name. By any instance's thread, perhaps more than once; see BatchContext.
    std::function<void(const std::string&, const absl::Status&)> on_lost = {};
    std::shared_ptr<ResponseCache> cache;  // null: none
    ServiceOptions options;
  };
  explicit ModelControl(Parts parts);
  // What was asked for before is still done.
  ~ModelControl();

  // Loads what the options say, on the calling thread. An error ends the program's start.
  absl::Status LoadInitial();
  // In poll mode: follows the repository from now on.
  void StartPolling();
  // No load begins that no client has asked for; one that is under way goes on. Any thread.
  void StopPolling();

  // Return at once; `done` is called on the control thread. Unavailable unless the mode is
  // explicit.
  void Load(LoadModelRequest request, std::function<void(absl::Status)> done);
  void Unload(std::string name, bool unload_dependents, std::function<void(absl::Status)> done);

  // One look at the repository, on the calling thread. For tests and the polling thread; not beside
  // Load and Unload.
  void Poll();

 private:
  using Names = std::set<std::string>;
  // NotFound: the repository has no such model. Internal: its configuration cannot be read or is
  // wrong. InvalidArgument: what it asks for cannot be had.
  absl::Status LoadNow(const std::string& name, std::optional<ModelConfig> config,
                       Names& under_way);
  // The same, but that memory which runs out is thrown and leaves the model as it was then.
  absl::Status LoadOrThrow(const std::string& name, std::optional<ModelConfig> config,
                           Names& under_way);
  // The end of a load that began.
  void Fail(const std::string& name, const absl::Status& status);
  absl::Status LoadSteps(const ModelConfig& ensemble, Names& under_way);
  // Memory that runs out is an error as others are.
  absl::Status Make(ModelConfig config);
  absl::Status MakeOrThrow(ModelConfig config);
  absl::Status MakeWork(ModelConfig& config, LoadedModel& model);
  absl::Status MakeEnsemble(ModelConfig& config, LoadedModel& model);
  absl::StatusOr<std::unique_ptr<Scheduler>> MakeScheduler(const Deployment& deployment,
                                                           LoadedModel& model);
  // Counts its name: once, however often it is loaded anew, and while it waits.
  absl::Status HoldPlace(const ModelConfig& config, LoadedModel& model) const;
  // Counts threads that the model is about to start.
  absl::Status HoldThreads(int threads, LoadedModel& model) const;
  absl::Status LoadWithRetries(const std::string& name);
  absl::Status UnloadNow(const std::string& name, bool unload_dependents);
  void RemakeDependents(const std::string& name);
  void UnloadDependents(const std::string& name);
  void LoadWaitingEnsembles();
  // Explicit mode: an ensemble that leaves because of a step, and is not unloaded by its own name.
  void LetWait(const LoadedModel& ensemble);
  // Those whose steps are there again. Loads no step.
  void ReviveWaiting();
  // Of an ensemble that is loaded or waits.
  bool IsStepOfAny(const std::string& name) const;
  bool InRepository(const std::string& name) const;
  // Of a configuration that came with a load request: its checkpoint is in the model's own folder,
  // or one that a configuration of the repository names. Looks at no file.
  absl::Status CheckCheckpoint(const ModelConfig& config) const;
  // Ends serving it on purpose. Of a model that a load request alone described, the name goes too.
  void TakeOut(const std::string& name, const std::string& reason);
  // Loaded ensembles with a step `name`.
  std::vector<std::shared_ptr<const LoadedModel>> EnsemblesOf(const std::string& name) const;
  // Those, the ensembles over them, and so on: each once, and after its steps.
  std::vector<std::shared_ptr<const LoadedModel>> DependentsOf(const std::string& name) const;
  // A round of the poller's life; false at the end.
  bool FollowRepository();
  bool StopsPolling();

  const Parts parts_;
  const std::shared_ptr<Budget> threads_;
  const std::shared_ptr<Budget> models_;
  // The control thread's, once it has started: what was loaded by its own name, not only as an
  // ensemble's step; and ensembles that wait for a step.
  Names asked_for_;
  struct Waiting {
    ModelConfig config;
    std::shared_ptr<const void> place;
  };
  std::map<std::string, Waiting> waiting_;
  std::map<std::string, std::uint64_t> stamps_;  // poll mode: as they were loaded
  Names made_;                                   // poll mode: loaded since it was last looked at
  Mutex mu_;
  CondVar wake_;
  bool stopping_ SIGLIP_GUARDED_BY(mu_) = false;
  std::thread poller_;
  std::unique_ptr<ThreadPool> worker_;  // one thread; last, so that it ends first
};

}  // namespace siglip
