#pragma once

#include <string_view>

namespace siglip {

// What some editors begin a text file with; no part of its first line.
inline constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

}  // namespace siglip
