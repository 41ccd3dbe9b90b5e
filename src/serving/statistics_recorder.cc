#include "serving/statistics_recorder.h"

#include <algorithm>
#include <utility>

namespace siglip {
namespace {

void Add(StatisticDuration& duration, std::uint64_t ns) {
  ++duration.count;
  duration.ns += ns;
}

}  // namespace

StatisticsRecorder::StatisticsRecorder(std::string name, std::string version, const Clock& clock)
    : clock_(clock) {
  counters_.name = std::move(name);
  counters_.version = std::move(version);
  for (const FailureReason reason : {FailureReason::kRejected, FailureReason::kCanceled,
                                     FailureReason::kBackend, FailureReason::kOther}) {
    counters_.failures[reason] = 0;
  }
}

void StatisticsRecorder::AddPending(std::int64_t requests) {
  MutexLock lock(mu_);
  counters_.pending_requests += requests;
}

void StatisticsRecorder::RecordSuccess(std::int64_t batch_size, std::uint64_t total_ns,
                                       const ComputeDurations& durations) {
  const auto now_ms = static_cast<std::uint64_t>(clock_.UnixMs());
  MutexLock lock(mu_);
  counters_.last_inference_ms = std::max(counters_.last_inference_ms, now_ms);
  counters_.inference_count += static_cast<std::uint64_t>(batch_size);
  Add(counters_.success, total_ns);
  Add(counters_.queue, durations.queue_ns);
  Add(counters_.compute_input, durations.input_ns);
  Add(counters_.compute_infer, durations.infer_ns);
  Add(counters_.compute_output, durations.output_ns);
}

void StatisticsRecorder::RecordFailure(FailureReason reason, std::uint64_t total_ns) {
  const auto now_ms = static_cast<std::uint64_t>(clock_.UnixMs());
  MutexLock lock(mu_);
  counters_.last_inference_ms = std::max(counters_.last_inference_ms, now_ms);
  Add(counters_.fail, total_ns);
  ++counters_.failures[reason];
}

void StatisticsRecorder::RecordExecution(std::int64_t batch_size,
                                         const ComputeDurations& durations) {
  MutexLock lock(mu_);
  ++counters_.execution_count;
  BatchStatistics& batch = counters_.batches[static_cast<std::uint64_t>(batch_size)];
  Add(batch.compute_input, durations.input_ns);
  Add(batch.compute_infer, durations.infer_ns);
  Add(batch.compute_output, durations.output_ns);
}

void StatisticsRecorder::SetLoadDuration(double seconds) {
  MutexLock lock(mu_);
  counters_.load_duration_s = seconds;
}

ModelStatistics StatisticsRecorder::Snapshot() const {
  MutexLock lock(mu_);
  return counters_;
}

FailureReason FailureReasonOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
      return FailureReason::kRejected;
    case absl::StatusCode::kCancelled:
      return FailureReason::kCanceled;
    case absl::StatusCode::kInternal:
      return FailureReason::kBackend;
    default:
      return FailureReason::kOther;
  }
}

}  // namespace siglip
