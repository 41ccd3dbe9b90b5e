#include "server/connection_guard.h"

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

bool ConnectionGuard::Admits(int fd, std::size_t open) {
  if (open >= connections_) {
    Log("many_connections", connections_);
    return false;
  }
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return true;
  // The lowest free number is handed out, so that of the newest tells how many there are.
  const rlim_t kept = std::min(kKept, limit.rlim_cur / kKeptPart);
  if (static_cast<rlim_t>(fd) < limit.rlim_cur - kept) return true;
  Log("few_descriptors", limit.rlim_cur);
  return false;
}

void ConnectionGuard::Log(std::string_view reason, std::uint64_t limit) {
  const std::int64_t now_ns = SteadyNowNs();
  if (now_ns < next_log_ns_) return;
  next_log_ns_ = now_ns + kLogPeriodNs;
  SIGLIP_LOG_WARN("connections dropped door={} reason={} limit={}", door_, reason, limit);
}

}  // namespace siglip
