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

StatisticsRecorder::StatisticsRecorder(std::string name, std::string version, const Clock& clock,
                                       std::vector<double> response_bounds_ms)
    : clock_(clock) {
  counters_.name = std::move(name);
  counters_.version = std::move(version);
  counters_.responses.counts.resize(response_bounds_ms.size() + 1);
  counters_.responses.bounds_ms = std::move(response_bounds_ms);
  for (const FailureReason reason : {FailureReason::kRejected, FailureReason::kCanceled,
                                     FailureReason::kBackend, FailureReason::kOther}) {
    counters_.failures[reason] = 0;
  }
}

void StatisticsRecorder::AddLatency(LatencyKind kind, std::uint64_t ns, std::int64_t now_ns) {
  LatencyRecord& record = counters_.latencies[static_cast<std::size_t>(kind)];
  record.window.Record(ns, now_ns);
  Add(record.all, ns);
}

void StatisticsRecorder::AddResponse(std::uint64_t total_ns) {
  ResponseHistogram& responses = counters_.responses;
  const auto& bounds = responses.bounds_ms;
  const double ms = static_cast<double>(total_ns) * 1e-6;
  ++responses.counts[static_cast<std::size_t>(std::lower_bound(bounds.begin(), bounds.end(), ms) -
                                              bounds.begin())];
  responses.sum_ns += total_ns;
}

void StatisticsRecorder::AddPending(std::int64_t requests) {
  MutexLock lock(mu_);
  counters_.pending_requests += requests;
}

void StatisticsRecorder::RecordSuccess(std::int64_t batch_size, std::uint64_t total_ns,
                                       const ComputeDurations& durations) {
  const auto now_ms = static_cast<std::uint64_t>(clock_.UnixMs());
  const std::int64_t now_ns = clock_.NowNs();
  MutexLock lock(mu_);
  counters_.last_inference_ms = std::max(counters_.last_inference_ms, now_ms);
  counters_.inference_count += static_cast<std::uint64_t>(batch_size);
  Add(counters_.success, total_ns);
  Add(counters_.queue, durations.queue_ns);
  Add(counters_.compute_input, durations.input_ns);
  Add(counters_.compute_infer, durations.infer_ns);
  Add(counters_.compute_output, durations.output_ns);
  AddResponse(total_ns);
  AddLatency(LatencyKind::kRequest, total_ns, now_ns);
  AddLatency(LatencyKind::kQueue, durations.queue_ns, now_ns);
  AddLatency(LatencyKind::kInput, durations.input_ns, now_ns);
  AddLatency(LatencyKind::kInfer, durations.infer_ns, now_ns);
  AddLatency(LatencyKind::kOutput, durations.output_ns, now_ns);
}

void StatisticsRecorder::RecordCacheHit(std::uint64_t total_ns, std::uint64_t lookup_ns) {
  const auto now_ms = static_cast<std::uint64_t>(clock_.UnixMs());
  const std::int64_t now_ns = clock_.NowNs();
  MutexLock lock(mu_);
  counters_.last_inference_ms = std::max(counters_.last_inference_ms, now_ms);
  Add(counters_.success, total_ns);
  Add(counters_.queue, 0);
  Add(counters_.cache_hit, lookup_ns);
  AddResponse(total_ns);
  AddLatency(LatencyKind::kRequest, total_ns, now_ns);
  AddLatency(LatencyKind::kQueue, 0, now_ns);
  AddLatency(LatencyKind::kCacheHit, lookup_ns, now_ns);
}

void StatisticsRecorder::RecordCacheMiss(std::uint64_t lookup_and_insert_ns) {
  const std::int64_t now_ns = clock_.NowNs();
  MutexLock lock(mu_);
  Add(counters_.cache_miss, lookup_and_insert_ns);
  AddLatency(LatencyKind::kCacheMiss, lookup_and_insert_ns, now_ns);
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
  ModelStatistics copy = counters_;
  copy.taken_ns = clock_.NowNs();
  return copy;
}

FailureReason FailureReasonOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
      return FailureReason::kRejected;
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDeadlineExceeded:  // of the client's own, see
                                               // InferRequest::client_end_ns
      return FailureReason::kCanceled;
    default:  // what a model says of its input, too
      return FailureReason::kBackend;
  }
}

}  // namespace siglip
