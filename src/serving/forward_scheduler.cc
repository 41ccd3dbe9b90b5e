#include "serving/forward_scheduler.h"

#include <utility>

#include "base/clock.h"
#include "serving/refusals.h"
#include "serving/validate.h"

namespace siglip {
namespace {

// Below this the work (some microseconds per 10 kB of base64 or SHA-256) is less than a change of
// threads costs in the worst case.
constexpr std::size_t kInlineBytes = 32 * 1024;

}  // namespace

void RunOrSubmit(std::unique_ptr<InferRequest> request, ThreadPool& pool,
                 std::function<void(std::unique_ptr<InferRequest>)> work,
                 std::function<void(std::unique_ptr<InferRequest>, absl::Status)> refuse) {
  if (InputBytes(*request) <= kInlineBytes) return work(std::move(request));
  // std::function must be copyable.
  auto shared = std::make_shared<std::unique_ptr<InferRequest>>(std::move(request));
  pool.Submit([shared, work = std::move(work), refuse = std::move(refuse)] {
    if (IsCancelled(**shared)) return refuse(std::move(*shared), CancelledRefusal());
    work(std::move(*shared));
  });
}

ForwardScheduler::ForwardScheduler(std::shared_ptr<const ModelConfig> config,
                                   std::shared_ptr<Forwarder> forwarder, const Clock& clock,
                                   StatisticsRecorder& statistics, ThreadPool& pool)
    : config_(std::move(config)),
      forwarder_(std::move(forwarder)),
      clock_(clock),
      statistics_(statistics),
      pool_(pool) {}

void ForwardScheduler::Enqueue(std::unique_ptr<InferRequest> request) {
  RequestTimes& times = request->times;
  times.queue_start_ns = clock_.NowNs();
  if (times.arrival_ns == 0) times.arrival_ns = times.queue_start_ns;
  request->done = [this, done = std::move(request->done), arrival_ns = times.arrival_ns,
                   rows = BatchSize(*config_, *request)](InferResponse response) {
    const std::uint64_t total_ns = ElapsedNs(arrival_ns, clock_.NowNs());
    if (response.status.ok()) {
      statistics_.RecordSuccess(rows, total_ns, response.durations);
      statistics_.RecordExecution(rows, response.durations);
    } else {
      statistics_.RecordFailure(FailureReasonOf(response.status), total_ns);
    }
    done(std::move(response));
  };
  RunOrSubmit(
      std::move(request), pool_,
      [this](std::unique_ptr<InferRequest> moved) {
        const std::shared_ptr<ModelAccess> models = moved->models;
        forwarder_->Forward(std::move(moved), *models);
      },
      Refuse);
}

}  // namespace siglip
