#include "serving/refusals.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace siglip {

absl::Status CancelledRefusal() { return absl::CancelledError("Request was cancelled"); }
absl::Status DeadlineRefusal() { return absl::DeadlineExceededError("Deadline Exceeded"); }
absl::Status TimeoutRefusal() { return absl::UnavailableError("Request timeout expired"); }
absl::Status StoppedRefusal(const std::string& model) {
  return absl::UnavailableError(absl::StrCat("Server is stopping, scheduler for model '", model,
                                             "' has stopped accepting new inference requests"));
}

bool IsCancelled(const InferRequest& request) {
  return request.is_cancelled && request.is_cancelled();
}

std::int64_t ClientEnd(const InferRequest& request) {
  return request.client_end_ns == 0 ? INT64_MAX : request.client_end_ns;
}

std::int64_t TimeoutEnd(std::int64_t from_ns, std::uint64_t timeout_us) {
  if (timeout_us == 0) return INT64_MAX;
  return from_ns +
         static_cast<std::int64_t>(std::min<std::uint64_t>(timeout_us, INT64_MAX / 2000)) * 1000;
}

absl::Status GoneStatus(const InferRequest& request, std::int64_t timeout_end_ns,
                        std::int64_t now_ns) {
  if (IsCancelled(request)) return CancelledRefusal();
  if (now_ns >= ClientEnd(request)) return DeadlineRefusal();
  if (now_ns >= timeout_end_ns) return TimeoutRefusal();
  return absl::OkStatus();
}

absl::Status WaitingStatus(const InferRequest& request, std::int64_t now_ns) {
  std::int64_t from_ns = request.accepted_ns;
  if (from_ns == 0) from_ns = request.times.queue_start_ns;
  if (from_ns == 0) from_ns = request.times.arrival_ns;
  return GoneStatus(request, TimeoutEnd(from_ns, request.timeout_us), now_ns);
}

}  // namespace siglip
