#include "deployments/base64.h"

#include <array>
#include <cstdint>

#include "absl/strings/str_cat.h"

namespace siglip {
namespace {

constexpr std::uint8_t kNoDigit = 0xff;

constexpr std::array<std::uint8_t, 256> MakeTable() {
  std::array<std::uint8_t, 256> table{};
  table.fill(kNoDigit);
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (std::size_t i = 0; i < kAlphabet.size(); ++i) {
    table[static_cast<unsigned char>(kAlphabet[i])] = static_cast<std::uint8_t>(i);
  }
  return table;
}

constexpr std::array<std::uint8_t, 256> kDigits = MakeTable();

}  // namespace

absl::StatusOr<std::string> DecodeBase64(std::string_view text) {
  std::string out(text.size() / 4 * 3 + 3, '\0');
  std::size_t size = 0, num_digits = 0;
  std::uint32_t bits = 0;
  int in_quad = 0, pads = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto digit = [&](std::size_t k) {
      return kDigits[static_cast<unsigned char>(text[i + k])];
    };
    if (in_quad == 0 && i + 4 <= text.size()) {  // whole groups, as nearly all of a text is
      const std::uint32_t a = digit(0), b = digit(1), c = digit(2), d = digit(3);
      if (((a | b | c | d) & 0x80) == 0) {
        const std::uint32_t group = a << 18 | b << 12 | c << 6 | d;
        out[size++] = static_cast<char>(group >> 16);
        out[size++] = static_cast<char>(group >> 8 & 0xff);
        out[size++] = static_cast<char>(group & 0xff);
        num_digits += 4;
        pads = 0;
        i += 3;
        continue;
      }
    }
    if (text[i] == '=') {
      if (in_quad >= 2 && in_quad + ++pads >= 4) {
        in_quad = 0;
        break;
      }
      continue;
    }
    const std::uint8_t value = digit(0);
    if (value == kNoDigit) continue;
    pads = 0;
    ++num_digits;
    bits = bits << 6 | value;
    if (++in_quad >= 2) out[size++] = static_cast<char>(bits >> (8 - 2 * in_quad) & 0xff);
    in_quad %= 4;
  }
  if (in_quad == 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "base64: ", num_digits, " characters of data: cannot be 1 more than a multiple of 4"));
  }
  if (in_quad != 0) return absl::InvalidArgumentError("base64: incorrect padding");
  out.resize(size);
  return out;
}

}  // namespace siglip
