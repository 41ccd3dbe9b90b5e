#pragma once

// Durations of the last minute or two, kept so that their quantiles can be told: a count per bucket
// of 1/16 of its octave. Recording is two additions; no duration is stored.

#include <array>
#include <cstdint>

namespace siglip {

// Thread-compatible.
class LatencyWindow {
 public:
  // Of a microsecond and less to more than an hour: 16 buckets of each octave.
  static constexpr std::size_t kBuckets = 16 * 30;
  using Counts = std::array<std::uint32_t, kBuckets>;

  void Record(std::uint64_t ns, std::int64_t now_ns);

  // The duration that a share `q` of 0..1 of those in the window does not exceed, at most 1/16 too
  // large; 0 if there are none.
  double QuantileNs(double q, std::int64_t now_ns) const;

 private:
  // Each holds a minute; the one before is kept until the next is full.
  static constexpr std::int64_t kMinuteNs = 60'000'000'000;
  Counts current_ = {};
  Counts before_ = {};
  std::int64_t minute_ = 0;  // of current_, on the caller's clock
};

}  // namespace siglip
