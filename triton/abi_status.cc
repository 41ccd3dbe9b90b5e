#include "triton/abi_status.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace siglip::triton {
namespace {

// Like the protocol's own map: out of memory or quota is "try again later", a precondition is the
// caller's fault.
TRITONSERVER_Error_Code CodeOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnknown:
      return TRITONSERVER_ERROR_UNKNOWN;
    case absl::StatusCode::kNotFound:
      return TRITONSERVER_ERROR_NOT_FOUND;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return TRITONSERVER_ERROR_INVALID_ARG;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kAborted:
      return TRITONSERVER_ERROR_UNAVAILABLE;
    case absl::StatusCode::kUnimplemented:
      return TRITONSERVER_ERROR_UNSUPPORTED;
    case absl::StatusCode::kAlreadyExists:
      return TRITONSERVER_ERROR_ALREADY_EXISTS;
    case absl::StatusCode::kCancelled:
      return TRITONSERVER_ERROR_CANCELLED;
    default:
      return TRITONSERVER_ERROR_INTERNAL;
  }
}

absl::StatusCode CodeOf(TRITONSERVER_Error_Code code) {
  switch (code) {
    case TRITONSERVER_ERROR_INTERNAL:
      return absl::StatusCode::kInternal;
    case TRITONSERVER_ERROR_NOT_FOUND:
      return absl::StatusCode::kNotFound;
    case TRITONSERVER_ERROR_INVALID_ARG:
      return absl::StatusCode::kInvalidArgument;
    case TRITONSERVER_ERROR_UNAVAILABLE:
      return absl::StatusCode::kUnavailable;
    case TRITONSERVER_ERROR_UNSUPPORTED:
      return absl::StatusCode::kUnimplemented;
    case TRITONSERVER_ERROR_ALREADY_EXISTS:
      return absl::StatusCode::kAlreadyExists;
    case TRITONSERVER_ERROR_CANCELLED:
      return absl::StatusCode::kCancelled;
    default:
      return absl::StatusCode::kUnknown;
  }
}

}  // namespace

TRITONSERVER_Error* ToError(const absl::Status& status) {
  if (status.ok()) return nullptr;
  return TRITONSERVER_ErrorNew(CodeOf(status.code()), std::string(status.message()).c_str());
}

absl::Status FromError(TRITONSERVER_Error* error) {
  if (error == nullptr) return absl::OkStatus();
  absl::Status status(CodeOf(TRITONSERVER_ErrorCode(error)), TRITONSERVER_ErrorMessage(error));
  TRITONSERVER_ErrorDelete(error);
  return status;
}

absl::StatusOr<std::string> JsonOf(TRITONSERVER_Message* message) {
  const char* base = nullptr;
  std::size_t bytes = 0;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONSERVER_MessageSerializeToJson(message, &base, &bytes)));
  return std::string(base, bytes);
}

absl::StatusOr<std::string> TakeJson(TRITONSERVER_Message* message) {
  absl::StatusOr<std::string> json = JsonOf(message);
  LogIfError("message", TRITONSERVER_MessageDelete(message));
  return json;
}

void Log(TRITONSERVER_LogLevel level, const std::string& text) {
  // A log that cannot be written cannot be complained about.
  FromError(TRITONSERVER_LogMessage(level, "siglip", 0, text.c_str())).IgnoreError();
}

void LogIfError(const char* what, TRITONSERVER_Error* error) {
  if (error == nullptr) return;
  Log(TRITONSERVER_LOG_ERROR, absl::StrCat(what, ": ", FromError(error).message()));
}

}  // namespace siglip::triton
