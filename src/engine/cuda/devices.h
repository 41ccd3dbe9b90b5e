#pragma once

// Which GPUs this process can see: asks the CUDA module (module.h), if there is one.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace siglip {

struct GpuDevice {
  int ordinal = 0;
  std::string name;
  int compute_capability = 0;  // 10 * major + minor: 90 is sm_90
  std::int64_t memory_bytes = 0;
};

// Empty if there is none. FailedPrecondition if this build cannot know; Unavailable in their own
// words if a driver is there, but it, or a library that the engine needs, does not work.
// Thread-safe.
absl::StatusOr<std::vector<GpuDevice>> ListGpuDevices();

}  // namespace siglip
