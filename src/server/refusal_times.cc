#include "server/refusal_times.h"

#include <algorithm>

namespace siglip {

void RefusalTimes::Record(std::int64_t duration_ns) {
  const double seconds = static_cast<double>(duration_ns) * 1e-9;
  const auto bucket = std::lower_bound(kBoundsS.begin(), kBoundsS.end(), seconds);
  counts_[static_cast<std::size_t>(bucket - kBoundsS.begin())].fetch_add(1,
                                                                         std::memory_order_relaxed);
  sum_ns_.fetch_add(duration_ns, std::memory_order_relaxed);
}

RefusalTimes::Snapshot RefusalTimes::Read() const {
  Snapshot snapshot;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    snapshot.counts[i] = counts_[i].load(std::memory_order_relaxed);
  }
  snapshot.sum_s = static_cast<double>(sum_ns_.load(std::memory_order_relaxed)) * 1e-9;
  return snapshot;
}

}  // namespace siglip
