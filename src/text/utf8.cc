#include "text/utf8.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace siglip {
namespace {

struct Sequence {
  char32_t code_point;
  std::size_t length;
};

// Source: The Unicode Standard, table 3-7: the second byte's range depends on the first.
std::optional<Sequence> DecodeOne(std::string_view rest) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(rest[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return Sequence{first, 1};
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || rest.size() < length) return std::nullopt;
  unsigned char low = 0x80, high = 0xbf;
  if (first == 0xe0) low = 0xa0;
  if (first == 0xed) high = 0x9f;
  if (first == 0xf0) low = 0x90;
  if (first == 0xf4) high = 0x8f;
  char32_t code_point = first & (0x7fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if (byte(i) < low || byte(i) > high) return std::nullopt;
    code_point = code_point << 6 | (byte(i) & 0x3fu);
    low = 0x80;
    high = 0xbf;
  }
  return Sequence{code_point, length};
}

}  // namespace

absl::StatusOr<std::u32string> DecodeUtf8(std::string_view text) {
  std::u32string result;
  result.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const auto sequence = DecodeOne(text.substr(at));
    if (!sequence) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "text is not UTF-8: byte 0x%02x at offset %d", static_cast<unsigned char>(text[at]), at));
    }
    result.push_back(sequence->code_point);
    at += sequence->length;
  }
  return result;
}

std::string EncodeUtf8(std::u32string_view text) {
  std::string result;
  result.reserve(text.size());
  for (const char32_t c : text) {
    if (c < 0x80) {
      result += static_cast<char>(c);
      continue;
    }
    const int continuation = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    const char32_t marker = 0xff00u >> (continuation + 1) & 0xffu;
    result += static_cast<char>(marker | c >> (6 * continuation));
    for (int i = continuation - 1; i >= 0; --i) {
      result += static_cast<char>(0x80 | (c >> (6 * i) & 0x3f));
    }
  }
  return result;
}

}  // namespace siglip
