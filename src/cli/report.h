#pragma once

// How a command says that it failed.

#include "absl/status/status.h"
#include "cli/commands.h"

namespace siglip::cli {

// Prints "error: ..." to stderr and returns kFailure.
int Fail(const absl::Status& status);

}  // namespace siglip::cli
