#pragma once

// Per-model counters with Triton's meaning, and a place where metrics read them.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/thread_annotations.h"

namespace siglip {

struct StatisticDuration {
  std::uint64_t count = 0;
  std::uint64_t ns = 0;
};

struct BatchStatistics {
  StatisticDuration compute_input;
  StatisticDuration compute_infer;
  StatisticDuration compute_output;
};

// Why a request failed: labels of nv_inference_request_failure.
enum class FailureReason { kRejected, kCanceled, kBackend, kOther };

// A snapshot. success.count and queue.count: finished requests; compute_*: likewise;
// inference_count adds the requests' batch sizes; execution_count counts executed batches.
struct ModelStatistics {
  std::string name;
  std::string version;
  std::uint64_t last_inference_ms = 0;  // since the epoch
  std::uint64_t inference_count = 0;
  std::uint64_t execution_count = 0;
  StatisticDuration success, fail, queue, compute_input, compute_infer, compute_output, cache_hit,
      cache_miss;
  std::map<std::uint64_t, BatchStatistics> batches;  // by batch size
  std::map<FailureReason, std::uint64_t> failures;
  std::int64_t pending_requests = 0;
  double load_duration_s = 0;
};

}  // namespace siglip
