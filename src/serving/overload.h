#pragma once

// Refusals for lack of room: the same request may be accepted a moment later. The doors tell
// clients when to come again.

#include <string_view>

#include "absl/status/status.h"

namespace siglip {

// How long a refused client is asked to stay away: HTTP's unit for it.
inline constexpr int kRetryAfterSeconds = 1;

// Unavailable, and marked: the mark survives PrefixStatus.
absl::Status OverloadedError(std::string_view text);
bool IsOverloaded(const absl::Status& status);

}  // namespace siglip
