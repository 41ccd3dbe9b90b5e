#pragma once

// Which library this is: each links another definition.

#include "triton/backend.h"

namespace siglip::triton {

BackendKind ThisBackend();

}  // namespace siglip::triton
