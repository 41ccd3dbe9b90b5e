#pragma once

// Takes the requests of a forwarding model: keeps its statistics, and moves large requests off the
// I/O thread that brought them.

#include <functional>
#include <memory>

#include "base/clock.h"
#include "base/thread_pool.h"
#include "serving/deployment.h"
#include "serving/model_config.h"
#include "serving/scheduler.h"
#include "serving/statistics_recorder.h"

namespace siglip {

// Runs `work` with the request: here if its inputs are small, else in the pool, or `refuse` there
// if its client has gone meanwhile.
void RunOrSubmit(std::unique_ptr<InferRequest> request, ThreadPool& pool,
                 std::function<void(std::unique_ptr<InferRequest>)> work,
                 std::function<void(std::unique_ptr<InferRequest>, absl::Status)> refuse);

// Thread-safe. What is passed by reference is borrowed and outlives the requests.
class ForwardScheduler final : public Scheduler {
 public:
  ForwardScheduler(std::shared_ptr<const ModelConfig> config, std::shared_ptr<Forwarder> forwarder,
                   const Clock& clock, StatisticsRecorder& statistics, ThreadPool& pool);

  void Enqueue(std::unique_ptr<InferRequest> request) override;
  void Stop() override {}  // holds no queue: the models behind it refuse

 private:
  const std::shared_ptr<const ModelConfig> config_;
  const std::shared_ptr<Forwarder> forwarder_;
  const Clock& clock_;
  StatisticsRecorder& statistics_;
  ThreadPool& pool_;
};

}  // namespace siglip
