#include "serving/latency_window.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace siglip {
namespace {

// Values below 16 have a bucket each; above, the four bits behind the leading one choose it.
std::size_t BucketOf(std::uint64_t us) {
  if (us < 16) return static_cast<std::size_t>(us);
  const int shift = static_cast<int>(std::bit_width(us)) - 5;
  const std::size_t bucket = static_cast<std::size_t>(shift) * 16 + (us >> shift);
  return std::min(bucket, LatencyWindow::kBuckets - 1);
}

// The largest value of a bucket.
std::uint64_t UpperUs(std::size_t bucket) {
  if (bucket < 16) return bucket;
  const std::size_t shift = bucket / 16 - 1;
  const std::uint64_t leading = bucket - shift * 16;  // 16..31
  return ((leading + 1) << shift) - 1;
}

}  // namespace

void LatencyWindow::Record(std::uint64_t ns, std::int64_t now_ns) {
  const std::int64_t minute = now_ns / kMinuteNs;
  if (minute > minute_) {
    before_ = minute == minute_ + 1 ? current_ : Counts{};
    current_ = {};
    minute_ = minute;
  }
  ++current_[BucketOf(ns / 1000)];
}

double LatencyWindow::QuantileNs(double q, std::int64_t now_ns) const {
  const std::int64_t age = now_ns / kMinuteNs - minute_;
  const auto count = [&](std::size_t i) {
    return std::uint64_t{age <= 1 ? current_[i] : 0} + std::uint64_t{age <= 0 ? before_[i] : 0};
  };
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < kBuckets; ++i) total += count(i);
  if (total == 0) return 0;
  const auto rank = static_cast<std::uint64_t>(std::ceil(q * static_cast<double>(total)));
  std::uint64_t seen = 0;
  std::size_t bucket = 0;
  for (; bucket < kBuckets - 1; ++bucket) {
    seen += count(bucket);
    if (seen >= std::max<std::uint64_t>(1, rank)) break;
  }
  return static_cast<double>(UpperUs(bucket)) * 1000;
}

}  // namespace siglip
