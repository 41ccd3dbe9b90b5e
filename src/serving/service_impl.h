#pragma once

// The service: the table of models, admission at the door, and the way of a request to its
// scheduler.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/thread_pool.h"
#include "serving/deployment.h"
#include "serving/memory_budget.h"
#include "serving/options.h"
#include "serving/scheduler.h"
#include "serving/service.h"
#include "serving/statistics_recorder.h"

namespace siglip {

// Thread-safe; destroyed when nobody calls it any more. Of each model the newest version is served.
class ServiceImpl final : public Service, private ModelAccess {
 public:
  // Loads all models: checks, completion, warm-up; ensembles after their steps. Returns when all
  // are ready. `factory` is used only here; `clock` is borrowed. Errors name the configuration's
  // source.
  static absl::StatusOr<std::unique_ptr<ServiceImpl>> Load(std::vector<ModelConfig> configs,
                                                           DeploymentFactory& factory,
                                                           const Clock& clock,
                                                           const ServiceOptions& options = {});
  // Refuses what is queued, waits for what runs.
  ~ServiceImpl() override;

  bool Live() const override { return true; }
  bool Ready() const override;
  absl::Status ModelReady(const std::string& name, const std::string& version) const override;
  ServerMetadata Metadata() const override;
  absl::StatusOr<ModelMetadata> GetModelMetadata(const std::string& name,
                                                 const std::string& version) const override;
  absl::StatusOr<std::shared_ptr<const ModelConfig>> GetModelConfig(
      const std::string& name, const std::string& version) const override;
  absl::StatusOr<std::vector<ModelStatistics>> GetStatistics(
      const std::string& name, const std::string& version) const override;
  std::vector<IndexRow> RepositoryIndex(bool ready_only) const override;
  void Infer(std::unique_ptr<InferRequest> request) override;

  // From now on Ready is false and new requests are refused; accepted ones are finished.
  void BeginDrain();
  // True if no request is in flight, at once or within `timeout`.
  bool WaitUntilIdle(std::chrono::nanoseconds timeout);
  std::int64_t inflight_requests() const { return inflight_.load(std::memory_order_relaxed); }

 private:
  struct LoadedModel {
    std::shared_ptr<const ModelConfig> config;
    std::string version;
    std::string unavailable_reason;  // empty = ready
    std::unique_ptr<StatisticsRecorder> statistics;
    std::unique_ptr<Scheduler> scheduler;  // null if unavailable

    bool ready() const { return scheduler != nullptr; }
  };

  ServiceImpl(const Clock& clock, const ServiceOptions& options);
  absl::Status LoadAll(std::vector<ModelConfig> configs, DeploymentFactory& factory);
  absl::Status LoadOne(ModelConfig config, DeploymentFactory& factory);
  absl::Status MakeModel(ModelConfig& config, DeploymentFactory& factory, LoadedModel& model);
  absl::Status MakeEnsemble(ModelConfig& config, LoadedModel& model);
  std::unique_ptr<Scheduler> MakeScheduler(const ModelConfig& config, const Deployment& deployment,
                                           LoadedModel& model);
  absl::StatusOr<const LoadedModel*> Find(const std::string& name,
                                          const std::string& version) const;
  absl::StatusOr<const LoadedModel*> FindReady(const std::string& name,
                                               const std::string& version) const;
  absl::Status Admit(InferRequest& request);
  void Dispatch(std::unique_ptr<InferRequest> request);
  void Leave();

  absl::StatusOr<std::shared_ptr<const ModelConfig>> ReadyConfig(
      const std::string& name, const std::string& version) const override;
  void InferWithin(std::unique_ptr<InferRequest> request) override { Dispatch(std::move(request)); }

  const Clock& clock_;
  const ServiceOptions options_;
  const std::shared_ptr<MemoryBudget> input_budget_;
  const std::shared_ptr<MemoryBudget> output_budget_;
  std::map<std::string, LoadedModel> models_;  // unchanged after Load
  std::unique_ptr<ThreadPool> forward_pool_;
  std::atomic<bool> draining_{false};      // a late reader admits one request more: no order needed
  std::atomic<std::int64_t> inflight_{0};  // the count itself is all that is shared
  Mutex idle_mu_;
  CondVar idle_;
};

}  // namespace siglip
