#pragma once

// Appending JSON numbers and errors to a string; strings are base/json_text.h's.

#include <cstdint>
#include <string>
#include <string_view>

namespace siglip {

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
