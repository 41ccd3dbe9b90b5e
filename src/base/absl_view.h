#pragma once

// Debian's Abseil is built for C++14 and has a string view of its own, which StrCat takes and a
// Status has.

#include <string_view>

#include "absl/strings/string_view.h"

namespace siglip {

inline absl::string_view AbslView(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view StdView(absl::string_view text) { return {text.data(), text.size()}; }

}  // namespace siglip
