#pragma once

// Takes the requests of a forwarding model: keeps its statistics, and moves what takes time off the
// I/O thread that brought it.

#include <memory>

#include "base/clock.h"
#include "serving/deployment.h"
#include "serving/model_config.h"
#include "serving/scheduler.h"
#include "serving/statistics_recorder.h"
#include "serving/work_lanes.h"

namespace siglip {

// Thread-safe. What is passed by reference is borrowed and outlives the requests.
class ForwardScheduler final : public Scheduler {
 public:
  ForwardScheduler(std::shared_ptr<const ModelConfig> config, std::shared_ptr<Forwarder> forwarder,
                   const Clock& clock, StatisticsRecorder& statistics, WorkLanes& lanes);

  void Enqueue(std::unique_ptr<InferRequest> request) override;
  void Stop() override {}  // holds no queue: the models behind it refuse, and so do the lanes

 private:
  // Of a request that does not wait.
  void Forward(std::unique_ptr<InferRequest> request);
  // Has the answer counted, of a request that leaves the lanes now.
  void Watch(InferRequest& request) const;

  const std::shared_ptr<const ModelConfig> config_;
  const std::shared_ptr<Forwarder> forwarder_;
  const Clock& clock_;
  StatisticsRecorder& statistics_;
  WorkLanes& lanes_;
};

}  // namespace siglip
