#pragma once

// UTF-8, strictly: what text/ reads and writes.

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace siglip {

// The code points of `text`. InvalidArgument with the offset of the first byte that is not UTF-8
// (overlong forms, surrogates and numbers above U+10FFFF are not).
absl::StatusOr<std::u32string> DecodeUtf8(std::string_view text);

// REQUIRES: code points that UTF-8 can hold.
std::string EncodeUtf8(std::u32string_view text);

}  // namespace siglip
