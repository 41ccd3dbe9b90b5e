#pragma once

// Base64 as Python's base64.b64decode reads it, which the clients of the replaced system rely on.

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace siglip {

// Characters outside the alphabet (line breaks, '!') are dropped; what follows complete padding is
// ignored. InvalidArgument if the padding is wrong. Source: CPython 3.11 Modules/binascii.c,
// a2b_base64, not strict.
absl::StatusOr<std::string> DecodeBase64(std::string_view text);

}  // namespace siglip
