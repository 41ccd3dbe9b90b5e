#pragma once

// Arithmetic and number parsing for sizes that come from outside.

#include <charconv>
#include <concepts>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace siglip {

// a*b, a+b, or nothing if the result does not fit.
template <std::integral T>
std::optional<T> CheckedMul(T a, T b) {
  T result;
  if (__builtin_mul_overflow(a, b, &result)) return std::nullopt;
  return result;
}

template <std::integral T>
std::optional<T> CheckedAdd(T a, T b) {
  T result;
  if (__builtin_add_overflow(a, b, &result)) return std::nullopt;
  return result;
}

// The product of a shape; nothing if a dimension is negative or the product overflows.
inline std::optional<std::int64_t> ElementCount(std::span<const std::int64_t> shape) {
  std::int64_t count = 1;
  for (const std::int64_t dim : shape) {
    if (dim < 0 || __builtin_mul_overflow(count, dim, &count)) return std::nullopt;
  }
  return count;
}

// Decimal digits only, the whole text, no sign (but '-' for signed T), no white space, in range.
template <std::integral T>
std::optional<T> ParseInt(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

}  // namespace siglip
