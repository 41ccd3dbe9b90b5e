#pragma once

// The service: admission at the door, and what is asked about models.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "serving/budget.h"
#include "serving/deployment.h"
#include "serving/model_control.h"
#include "serving/model_registry.h"
#include "serving/model_repository.h"
#include "serving/options.h"
#include "serving/response_cache.h"
#include "serving/service.h"
#include "serving/work_lanes.h"

namespace siglip {

// Thread-safe; destroyed when nobody calls it any more. Of each model the newest version is served.
class ServiceImpl final : public Service {
 public:
  // Loads what `options` say: checks, completion, warm-up; ensembles after their steps. Returns
  // when all are ready. `factory` and `clock` are borrowed. Errors name the configuration's source.
  static absl::StatusOr<std::unique_ptr<ServiceImpl>> Open(
      std::unique_ptr<ModelRepository> repository, DeploymentFactory& factory, const Clock& clock,
      const ServiceOptions& options = {});
  // The same over a fixed list.
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
  std::optional<CacheStatistics> GetCacheStatistics() const override;
  std::vector<IndexRow> RepositoryIndex(bool ready_only) const override;
  void LoadModel(LoadModelRequest request, std::function<void(absl::Status)> done) override;
  void UnloadModel(const std::string& name, bool unload_dependents,
                   std::function<void(absl::Status)> done) override;
  absl::StatusOr<std::shared_ptr<const void>> TakePlace() override;
  std::int64_t InflightRequests() const override {
    return inflight_.load(std::memory_order_relaxed);
  }
  void Infer(std::unique_ptr<InferRequest> request) override;

  // From now on Ready is false, new requests are refused and no model is polled; accepted ones are
  // finished.
  void BeginDrain();
  // True if no request is in flight, at once or within `timeout`.
  bool WaitUntilIdle(std::chrono::nanoseconds timeout);

 private:
  ServiceImpl(std::unique_ptr<ModelRepository> repository, DeploymentFactory& factory,
              const Clock& clock, const ServiceOptions& options);
  absl::Status Admit(InferRequest& request, bool batched);
  absl::Status CheckOpen() const;
  // Counts one more in flight, `over` more than the limit at most.
  absl::Status Enter(std::int64_t over);
  void Leave();
  // Whether every model counts as not ready.
  bool closed() const;
  void Lose(const std::string& model, const absl::Status& status);

  const Clock& clock_;
  const ServiceOptions options_;
  const std::shared_ptr<Budget> input_budget_;
  const std::shared_ptr<Budget> output_budget_;
  std::unique_ptr<WorkLanes> lanes_;
  const std::unique_ptr<ModelRepository> repository_;
  const std::shared_ptr<ResponseCache> cache_;  // null without --cache-config
  // Set once, when a model's device is lost: readiness turns false. Orders nothing else.
  std::atomic<bool> lost_{false};
  std::atomic<bool> draining_{false};      // a late reader admits one request more: no order needed
  std::atomic<std::int64_t> inflight_{0};  // the count itself is all that is shared
  Mutex idle_mu_;
  CondVar idle_;
  // After all that requests touch as they leave: its end waits for the last of them.
  ModelRegistry registry_;
  std::unique_ptr<ModelControl> control_;
};

}  // namespace siglip
