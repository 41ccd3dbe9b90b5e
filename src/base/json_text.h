#pragma once

// Strings as JSON. Output is always valid UTF-8, whatever the input bytes are.

#include <cstddef>
#include <string>
#include <string_view>

namespace siglip {

// `text` in quotes, escaped; bytes that are no UTF-8 become U+FFFD.
void AppendJsonString(std::string_view text, std::string& out);

// Offset of the first byte that is not UTF-8; the size if there is none.
std::size_t InvalidUtf8At(std::string_view text);

}  // namespace siglip
