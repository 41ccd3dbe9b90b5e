#include "protocol/json_writer.h"

#include <array>
#include <charconv>
#include <cmath>

#include "base/json_text.h"

namespace siglip {
namespace {

template <class T>
void AppendReal(T value, std::string& out) {
  if (std::isnan(value)) {
    out += "NaN";
    return;
  }
  if (std::isinf(value)) {
    out += value < 0 ? "-Infinity" : "Infinity";
    return;
  }
  std::array<char, 32> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  const std::string_view digits(text.data(), static_cast<std::size_t>(end - text.data()));
  out += digits;
  if (digits.find_first_of(".e") == std::string_view::npos) out += ".0";
}

template <class T>
void AppendInteger(T value, std::string& out) {
  std::array<char, 24> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  out.append(text.data(), end);
}

}  // namespace

void AppendJsonInt(std::int64_t value, std::string& out) { AppendInteger(value, out); }
void AppendJsonUint(std::uint64_t value, std::string& out) { AppendInteger(value, out); }
void AppendJsonFloat(float value, std::string& out) { AppendReal(value, out); }
void AppendJsonDouble(double value, std::string& out) { AppendReal(value, out); }

std::string ErrorBody(std::string_view text) {
  std::string body = "{\"error\":";
  AppendJsonString(text, body);
  body += '}';
  return body;
}

}  // namespace siglip
