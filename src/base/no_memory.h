#pragma once

// The error of work that ran out of memory, made where there may be none for the error itself.

#include <new>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace siglip {

// ResourceExhausted, "<what>: out of memory"; without words if there is no memory for them.
inline absl::Status NoMemory(const char* what) noexcept {
  try {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": out of memory"));
  } catch (const std::bad_alloc&) {
    return absl::Status(absl::StatusCode::kResourceExhausted, "");
  }
}

}  // namespace siglip
