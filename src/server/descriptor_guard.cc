#include "server/descriptor_guard.h"

#include <sys/resource.h>

#include <algorithm>

#include "base/clock.h"
#include "base/log.h"

namespace siglip {
namespace {

// A worker's start takes four for a moment, a reload one; an eighth where the limit is for a toy.
constexpr rlim_t kKept = 64;
constexpr rlim_t kKeptPart = 8;
constexpr std::int64_t kLogPeriodNs = 1'000'000'000;

}  // namespace

bool DescriptorGuard::Admits(int fd) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return true;
  // The lowest free number is handed out, so that of the newest tells how many there are.
  const rlim_t kept = std::min(kKept, limit.rlim_cur / kKeptPart);
  if (static_cast<rlim_t>(fd) < limit.rlim_cur - kept) return true;
  const std::int64_t now_ns = SteadyNowNs();
  if (now_ns >= next_log_ns_) {
    next_log_ns_ = now_ns + kLogPeriodNs;
    SIGLIP_LOG_WARN("connections dropped door={} reason=few_descriptors limit={}", door_,
                    limit.rlim_cur);
  }
  return false;
}

}  // namespace siglip
