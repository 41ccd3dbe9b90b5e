#pragma once

// A model that is a graph of other models. A tensor that one step makes is handed on to the next by
// shared ownership: nothing is copied, and no thread waits for a step.

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "serving/deployment.h"
#include "serving/model_config.h"
#include "serving/request.h"
#include "serving/scheduler.h"
#include "serving/statistics_recorder.h"

namespace siglip {

// The graph by its names: every tensor is made once and taken, without a cycle.
absl::Status CheckGraph(const ModelConfig& ensemble);

// The graph, which CheckGraph accepted, against its steps' (completed) configurations: every step
// and tensor is there, of one type. Fills the ensemble's -1 dims from the steps.
absl::Status CheckEnsemble(
    const std::function<absl::StatusOr<std::shared_ptr<const ModelConfig>>(const EnsembleStep&)>&
        find,
    ModelConfig& ensemble);

// Thread-safe. Everything but the configuration is borrowed, and outlives the requests.
class EnsembleScheduler final : public Scheduler {
 public:
  static constexpr int kThreads = 1;  // where requests may wait

  EnsembleScheduler(std::shared_ptr<const ModelConfig> config, const Clock& clock,
                    StatisticsRecorder& statistics);
  ~EnsembleScheduler() override;

  void Enqueue(std::unique_ptr<InferRequest> request) override;
  void Stop() override;

 private:
  class Run;
  // One of the requests that may run. Given back at its end, whatever becomes of the request.
  class Place {
   public:
    // `models` keep the scheduler.
    Place(EnsembleScheduler& owner, std::shared_ptr<ModelAccess> models)
        : models_(std::move(models)), owner_(&owner) {}
    Place(Place&& other) noexcept
        : models_(std::move(other.models_)), owner_(std::exchange(other.owner_, nullptr)) {}
    ~Place() { Leave(); }
    void Leave() {
      if (EnsembleScheduler* const owner = std::exchange(owner_, nullptr)) owner->Finished();
    }

   private:
    std::shared_ptr<ModelAccess> models_;
    EnsembleScheduler* owner_;  // null: given back
  };

  void Start(std::unique_ptr<InferRequest> request);
  // Throws nothing.
  void Finished();
  // Refuses those whose clients have gone, while those before them work.
  bool RefuseGone();
  using Gone = std::vector<std::pair<std::unique_ptr<InferRequest>, absl::Status>>;
  // Where memory runs out on the way, what is taken is the beginning.
  void TakeGone(Gone& gone) SIGLIP_REQUIRES(mu_);
  void RefuseWaiting(std::unique_ptr<InferRequest> request, const absl::Status& status);

  const std::shared_ptr<const ModelConfig> config_;
  const Clock& clock_;
  StatisticsRecorder& statistics_;
  const absl::Status no_memory_;  // made while there is some

  Mutex mu_;
  std::uint32_t running_ SIGLIP_GUARDED_BY(mu_) = 0;
  bool stopping_ SIGLIP_GUARDED_BY(mu_) = false;
  bool starting_ SIGLIP_GUARDED_BY(mu_) = false;  // a thread lets those in who wait
  std::deque<std::unique_ptr<InferRequest>> waiting_
      SIGLIP_GUARDED_BY(mu_);  // max_inflight_requests
  CondVar changed_;            // a request waits, or the end is near
  std::thread refuser_;        // only where requests may wait
};

}  // namespace siglip
