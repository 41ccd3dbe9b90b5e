#include "absl/status/status.h"
#include "engine/cuda/module.h"

namespace siglip::cuda {

absl::Status MissingModule() {
  return absl::FailedPreconditionError(
      "built without CUDA (configure with -DSIGLIP_CUDA=ON where the CUDA toolkit is)");
}

}  // namespace siglip::cuda
