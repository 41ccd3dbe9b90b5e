#pragma once

// Counts what one model does, with Triton's meaning of each number.

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "serving/request.h"
#include "serving/statistics.h"

namespace siglip {

// Thread-safe. The clock is borrowed.
class StatisticsRecorder {
 public:
  // `response_bounds_ms`: of ModelStatistics::responses, ascending.
  StatisticsRecorder(std::string name, std::string version, const Clock& clock,
                     std::vector<double> response_bounds_ms = {});

  // A request was accepted into the model's queue, and left it for good (answered, any way).
  void AddPending(std::int64_t requests);

  // A finished request of `batch_size` rows that took `total_ns` from its arrival at this model.
  void RecordSuccess(std::int64_t batch_size, std::uint64_t total_ns,
                     const ComputeDurations& durations);
  void RecordFailure(FailureReason reason, std::uint64_t total_ns);
  // One execution of `batch_size` rows; queue_ns is not looked at.
  void RecordExecution(std::int64_t batch_size, const ComputeDurations& durations);
  // A request that was answered from the response cache, after `lookup_ns`.
  void RecordCacheHit(std::uint64_t total_ns, std::uint64_t lookup_ns);
  // One that was not: RecordSuccess or RecordFailure has counted it. With the time of keeping it.
  void RecordCacheMiss(std::uint64_t lookup_and_insert_ns);
  void SetLoadDuration(double seconds);

  ModelStatistics Snapshot() const;

 private:
  void AddLatency(LatencyKind kind, std::uint64_t ns, std::int64_t now_ns) SIGLIP_REQUIRES(mu_);
  void AddResponse(std::uint64_t total_ns) SIGLIP_REQUIRES(mu_);

  const Clock& clock_;
  mutable Mutex mu_;
  ModelStatistics counters_ SIGLIP_GUARDED_BY(mu_);
};

// The label under which a model's failure counts. Bad input is found by its backend.
FailureReason FailureReasonOf(const absl::Status& status);

}  // namespace siglip
