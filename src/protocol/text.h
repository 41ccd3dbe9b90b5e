#pragma once

// Joining and comparing text. Debian's Abseil is built with its own string_view, which
// std::string_view does not convert to, so absl::StrCat and its neighbours do not take ours.

#include <charconv>
#include <concepts>
#include <string>
#include <string_view>

#include "absl/strings/string_view.h"

namespace siglip {

inline void AppendPiece(std::string& out, std::string_view piece) { out.append(piece); }
inline void AppendPiece(std::string& out, absl::string_view piece) {
  out.append(piece.data(), piece.size());
}
inline void AppendPiece(std::string& out, const std::string& piece) { out.append(piece); }
inline void AppendPiece(std::string& out, const char* piece) { out.append(piece); }
template <std::integral T>
void AppendPiece(std::string& out, T value) {
  char digits[24];
  out.append(digits, std::to_chars(digits, digits + sizeof(digits), value).ptr);
}

template <class... Pieces>
void AppendAll(std::string& out, const Pieces&... pieces) {
  (AppendPiece(out, pieces), ...);
}

template <class... Pieces>
std::string Concat(const Pieces&... pieces) {
  std::string out;
  AppendAll(out, pieces...);
  return out;
}

// How every refusal of broken JSON begins.
inline constexpr std::string_view kBrokenJson = "failed to parse the request JSON buffer";

inline char AsciiLower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

inline bool EqualsIgnoreCase(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (AsciiLower(a[i]) != AsciiLower(b[i])) return false;
  }
  return true;
}

// Without the spaces and tabs at both ends.
inline std::string_view Stripped(std::string_view text) {
  constexpr std::string_view kBlank = " \t";
  const std::size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

// Cuts the part before `separator` off `text`; all of it if there is none.
inline std::string_view NextPart(std::string_view& text, char separator) {
  const std::size_t end = text.find(separator);
  const std::string_view part = text.substr(0, end);
  text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  return part;
}

}  // namespace siglip
