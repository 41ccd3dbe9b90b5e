#pragma once

// Why a request leaves a queue unrun, the same in every queue. Texts are Triton's.

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "serving/request.h"

namespace siglip {

// Nobody tells that a client has gone, so queues are looked through so often: what has gone must
// not keep others out for the length of a batch, which on a CPU is seconds.
inline constexpr std::chrono::milliseconds kLookForGone{100};

absl::Status CancelledRefusal();  // the client has gone
absl::Status DeadlineRefusal();   // the client's own deadline has passed
absl::Status TimeoutRefusal();    // a time-out of the queue, or one that the client asked for
absl::Status StoppedRefusal(const std::string& model);

bool IsCancelled(const InferRequest& request);
// When the client waits no longer; INT64_MAX: it tells no end.
std::int64_t ClientEnd(const InferRequest& request);
// `from_ns` plus a time-out, of any size; INT64_MAX for 0, none.
std::int64_t TimeoutEnd(std::int64_t from_ns, std::uint64_t timeout_us);

// The refusal if nobody waits for the request at `now_ns`, or its time-out ended by then.
absl::Status GoneStatus(const InferRequest& request, std::int64_t timeout_end_ns,
                        std::int64_t now_ns);
// The same with the client's own time-out, which counts wherever the request waits
// (docs/operating.md).
absl::Status WaitingStatus(const InferRequest& request, std::int64_t now_ns);

}  // namespace siglip
