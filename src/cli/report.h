#pragma once

// How a command says that it failed.

#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/commands.h"

namespace siglip::cli {

// Prints "failed: NAME: WHY" to stderr, as one line whatever the two hold.
void SayFailed(std::string_view name, std::string_view why);

// Prints "error: ..." to stderr, as one line, and returns kFailure, or kUsage for what Usage
// marked.
int Fail(const absl::Status& status);

// Marks an InvalidArgument as the fault of the command line, and passes on everything else.
absl::Status Usage(absl::Status status);
template <class T>
absl::StatusOr<T> Usage(absl::StatusOr<T> value) {
  if (value.ok()) return value;
  return Usage(std::move(value).status());
}

}  // namespace siglip::cli
