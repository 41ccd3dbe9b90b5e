#pragma once

// In front of a model whose configuration enables the response cache: what was answered before is
// answered from there, and neither queues nor counts as an inference.

#include <memory>

#include "base/clock.h"
#include "serving/response_cache.h"
#include "serving/scheduler.h"
#include "serving/statistics_recorder.h"
#include "serving/work_lanes.h"

namespace siglip {

// Thread-safe. What is passed by reference is borrowed and outlives the requests. Requests are
// hashed on the calling thread, large ones in the lanes.
class CacheScheduler final : public Scheduler {
 public:
  CacheScheduler(std::unique_ptr<Scheduler> model, std::shared_ptr<ResponseCache> cache,
                 const Clock& clock, StatisticsRecorder& statistics, WorkLanes& lanes);

  void Enqueue(std::unique_ptr<InferRequest> request) override;
  void Stop() override { model_->Stop(); }

 private:
  void Look(std::unique_ptr<InferRequest> request);

  const std::unique_ptr<Scheduler> model_;
  const std::shared_ptr<ResponseCache> cache_;
  const Clock& clock_;
  StatisticsRecorder& statistics_;
  WorkLanes& lanes_;
};

}  // namespace siglip
