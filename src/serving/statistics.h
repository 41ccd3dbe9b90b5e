#pragma once

// Per-model counters with Triton's meaning, and a place where metrics read them.

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/thread_annotations.h"
#include "serving/latency_window.h"

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

// Which durations have their quantiles told.
enum class LatencyKind { kRequest, kQueue, kInput, kInfer, kOutput, kCacheHit, kCacheMiss };
inline constexpr std::size_t kNumLatencyKinds = 7;
struct LatencyRecord {
  LatencyWindow window;
  StatisticDuration all;  // since the start
};

// Requests by how long their answer took.
struct ResponseHistogram {
  std::vector<double> bounds_ms = {};      // ascending
  std::vector<std::uint64_t> counts = {};  // of each interval, the one above all bounds included
  std::uint64_t sum_ns = 0;
};

// Of the response cache as a whole. Since the start, but for what is there now.
struct CacheStatistics {
  std::uint64_t entries = 0;  // there now
  double utilization = 0;     // of its bytes, now: 0 to 1
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  std::uint64_t evictions = 0;
  std::uint64_t lookup_ns = 0;
  std::uint64_t insertion_ns = 0;
};

// What a step knows of its work beside what requests tell. Since it was made; for metrics.
struct StepCounters {
  std::map<std::string, StatisticDuration> stages = {};  // "decode" -> items that went through it
  std::map<std::string, std::uint64_t> refused = {};     // items by reason
};

// A snapshot. success.count and queue.count: finished requests; compute_*: likewise;
// inference_count adds the requests' batch sizes, answers from the cache apart; execution_count
// counts executed batches.
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
  ResponseHistogram responses;
  std::array<LatencyRecord, kNumLatencyKinds> latencies;  // by LatencyKind
  std::int64_t taken_ns = 0;                              // when, on the clock of `latencies`
  bool cached = false;  // answers come from the response cache where they can
  std::map<std::string, std::string> metric_tags;
  StepCounters step;
};

}  // namespace siglip
