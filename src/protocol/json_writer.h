#pragma once

// Appending JSON text to a string. Output is always valid UTF-8, whatever the input bytes are.

#include <cstdint>
#include <string>
#include <string_view>

namespace siglip {

// `text` in quotes, escaped; bytes that are no UTF-8 become U+FFFD.
void AppendJsonString(std::string_view text, std::string& out);

void AppendJsonInt(std::int64_t value, std::string& out);
void AppendJsonUint(std::uint64_t value, std::string& out);

// The shortest text that reads back to the same value; integral values keep a ".0". Not-a-number
// and the infinities are written NaN, Infinity, -Infinity: JSON has no form for them, Python's
// reader takes these.
void AppendJsonFloat(float value, std::string& out);
void AppendJsonDouble(double value, std::string& out);

// {"error":"text"}: the body of every refusal.
std::string ErrorBody(std::string_view text);

}  // namespace siglip
