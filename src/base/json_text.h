#pragma once

// Strings as JSON. Output is always valid UTF-8, whatever the input bytes are.

#include <string>
#include <string_view>

namespace siglip {

// `text` in quotes, escaped; bytes that are no UTF-8 become U+FFFD.
void AppendJsonString(std::string_view text, std::string& out);

}  // namespace siglip
