#include "engine/cuda/devices.h"

namespace siglip {

absl::StatusOr<std::vector<GpuDevice>> ListGpuDevices() {
  return absl::FailedPreconditionError("built without CUDA");
}

}  // namespace siglip
