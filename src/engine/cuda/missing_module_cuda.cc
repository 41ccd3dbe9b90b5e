#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/cuda/module.h"

namespace siglip::cuda {

absl::Status MissingModule() {
  return absl::FailedPreconditionError(
      absl::StrCat(kModule, " was not found beside the program or among its installed libraries"));
}

}  // namespace siglip::cuda
