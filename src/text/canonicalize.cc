#include "text/canonicalize.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace siglip {
namespace {

struct LowerRun {
  char32_t first;
  std::uint32_t count;
  std::uint32_t stride;
  std::int32_t delta;
};

struct CodePointRange {
  char32_t first;
  char32_t last;
};

#include "text/unicode_tables.inc"

constexpr char32_t kCapitalSigma = 0x3a3, kSigma = 0x3c3, kFinalSigma = 0x3c2;
constexpr char32_t kCapitalIWithDot = 0x130, kCombiningDotAbove = 0x307;

template <std::size_t kSize>
bool Contains(const CodePointRange (&ranges)[kSize], char32_t c) {
  const auto* range =
      std::lower_bound(std::begin(ranges), std::end(ranges), c,
                       [](const CodePointRange& r, char32_t v) { return r.last < v; });
  return range != std::end(ranges) && range->first <= c;
}

template <std::size_t kSize>
char32_t LowerBy(const LowerRun (&runs)[kSize], char32_t c) {
  const auto* run = std::upper_bound(std::begin(runs), std::end(runs), c,
                                     [](char32_t v, const LowerRun& r) { return v < r.first; });
  if (run == std::begin(runs)) return c;
  --run;
  const char32_t offset = c - run->first;
  if (offset % run->stride != 0 || offset / run->stride >= run->count) return c;
  return static_cast<char32_t>(static_cast<std::int64_t>(c) + run->delta);
}

char32_t LowerOne(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  return LowerBy(kLowerRuns, c);
}

// Final: after a cased letter and not before one, case-ignorable characters not counted.
// Source: CPython 3.11 Objects/unicodeobject.c, handle_capital_sigma.
char32_t LowerSigma(std::u32string_view text, std::size_t at) {
  std::size_t before = at;
  while (before > 0 && Contains(kCaseIgnorable, text[before - 1])) --before;
  if (before == 0 || !Contains(kCased, text[before - 1])) return kSigma;
  std::size_t after = at + 1;
  while (after < text.size() && Contains(kCaseIgnorable, text[after])) ++after;
  return after < text.size() && Contains(kCased, text[after]) ? kSigma : kFinalSigma;
}

bool IsAsciiPunctuation(char32_t c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}

}  // namespace

std::u32string LowerCase(std::u32string_view text) {
  std::u32string result;
  result.reserve(text.size() + 1);
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == kCapitalSigma) {
      result += LowerSigma(text, i);
    } else if (text[i] == kCapitalIWithDot) {
      result += U'i';
      result += kCombiningDotAbove;
    } else {
      result += LowerOne(text[i]);
    }
  }
  return result;
}

std::u32string LowerCaseByCodePoint(std::u32string_view text) {
  std::u32string result;
  result.reserve(text.size() + 1);
  for (const char32_t c : text) {
    if (c == kCapitalIWithDot) {
      result += U'i';
      result += kCombiningDotAbove;
      continue;
    }
    const char32_t lower = LowerOne(c);
    result += lower != c ? lower : LowerBy(kNewerLowerRuns, c);
  }
  return result;
}

bool IsWhiteSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
         c == 0x205f || c == 0x3000;
}

std::u32string Canonicalize(std::u32string_view text, bool lower_case) {
  const std::u32string lowered = lower_case ? LowerCase(text) : std::u32string(text);
  std::u32string result;
  result.reserve(lowered.size());
  bool pending_space = false;
  for (const char32_t c : lowered) {
    if (IsAsciiPunctuation(c)) continue;
    if (IsWhiteSpace(c)) {
      pending_space = true;
      continue;
    }
    if (pending_space && !result.empty()) result += U' ';
    pending_space = false;
    result += c;
  }
  return result;
}

}  // namespace siglip
