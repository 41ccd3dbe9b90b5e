#pragma once

// --backend-config=siglip,NAME=VALUE of Triton's command line.

#include <string_view>

#include "absl/status/statusor.h"
#include "deployments/factory.h"

namespace siglip::triton {

// `json`: {"cmdline": {"threads": "8", ...}}. The names are those of `siglip serve`'s options:
// model, threads, engine-batch-size, precision, device, isa, cache-dir, pillow, max-pixels,
// max-patches. Others are logged, unless they are those that Triton adds to every backend. Errors
// name the option, what was expected and what came.
absl::StatusOr<DeploymentsOptions> ParseBackendConfig(std::string_view json);

}  // namespace siglip::triton
