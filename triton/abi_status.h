#pragma once

// absl::Status <-> Triton's errors; its messages and its log.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "triton/core/tritonserver.h"

namespace siglip::triton {

// nullptr if `status` is ok, else an error that belongs to the caller.
TRITONSERVER_Error* ToError(const absl::Status& status);
// Takes over `error`.
absl::Status FromError(TRITONSERVER_Error* error);

// What a message holds. The second one deletes it.
absl::StatusOr<std::string> JsonOf(TRITONSERVER_Message* message);
absl::StatusOr<std::string> TakeJson(TRITONSERVER_Message* message);

void Log(TRITONSERVER_LogLevel level, const std::string& text);
// For calls after which nothing can be done.
void LogIfError(const char* what, TRITONSERVER_Error* error);

}  // namespace siglip::triton
