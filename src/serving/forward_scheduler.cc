#include "serving/forward_scheduler.h"

#include <new>
#include <utility>

#include "base/clock.h"
#include "serving/refusals.h"
#include "serving/validate.h"

namespace siglip {

ForwardScheduler::ForwardScheduler(std::shared_ptr<const ModelConfig> config,
                                   std::shared_ptr<Forwarder> forwarder, const Clock& clock,
                                   StatisticsRecorder& statistics, WorkLanes& lanes)
    : config_(std::move(config)),
      forwarder_(std::move(forwarder)),
      clock_(clock),
      statistics_(statistics),
      lanes_(lanes) {}

void ForwardScheduler::Watch(InferRequest& request) const {
  const RequestTimes& times = request.times;
  request.done = [this, done = std::move(request.done), arrival_ns = times.arrival_ns,
                  queue_ns = ElapsedNs(times.queue_start_ns, clock_.NowNs()),
                  rows = BatchSize(*config_, request)](InferResponse response) {
    const std::uint64_t total_ns = ElapsedNs(arrival_ns, clock_.NowNs());
    response.durations.queue_ns += queue_ns;
    if (response.status.ok()) {
      statistics_.RecordSuccess(rows, total_ns, response.durations);
      statistics_.RecordExecution(rows, response.durations);
    } else {
      statistics_.RecordFailure(FailureReasonOf(response.status), total_ns);
    }
    done(std::move(response));
  };
}

void ForwardScheduler::Enqueue(std::unique_ptr<InferRequest> request) {
  RequestTimes& times = request->times;
  times.queue_start_ns = clock_.NowNs();
  if (times.arrival_ns == 0) times.arrival_ns = times.queue_start_ns;
  const WorkLoad load = forwarder_->LoadOf(*request);
  if (load == WorkLoad::kNone) return Forward(std::move(request));
  statistics_.AddPending(1);
  try {
    lanes_.Run(
        load, std::move(request),
        [this](std::unique_ptr<InferRequest> moved) {
          statistics_.AddPending(-1);
          Forward(std::move(moved));
        },
        [this](std::unique_ptr<InferRequest> moved, const absl::Status& status) {
          statistics_.AddPending(-1);
          Watch(*moved);
          const std::string prefix = RequestPrefix(*moved);
          Refuse(std::move(moved), PrefixStatus(status, prefix));
        });
  } catch (const std::bad_alloc&) {  // it does not wait there
    statistics_.AddPending(-1);
    throw;
  }
}

void ForwardScheduler::Forward(std::unique_ptr<InferRequest> request) {
  request->times.compute_start_ns = clock_.NowNs();
  Watch(*request);
  const std::shared_ptr<ModelAccess> models = request->models;
  forwarder_->Forward(std::move(request), *models);
}

}  // namespace siglip
