#pragma once

// One table from our statuses to the two protocols' codes (triton-protocol: status map).

#include "absl/status/status.h"

namespace siglip {

// The code that a client sees: one of Triton's eight. What Triton has no code for becomes the
// nearest one (a full queue and a passed deadline are Unavailable there).
absl::StatusCode WireCode(absl::StatusCode code);

// HTTP status of a wire code: Internal 500, NotFound 404, Unavailable 503, Unimplemented 501,
// others 400.
int HttpStatusOf(const absl::Status& status);

}  // namespace siglip
