#pragma once

#include <cstdint>

namespace siglip {

// Inner products of two rows [width], of float32 numbers or of the bits of binary16 ones, at any
// alignment. Binary16 is widened exactly; products and sums are float32, in four sums per lane that
// are added at the end. So |result - true| <= gamma_n * sum |a_i b_i| with n = width / 4 + 6 at the
// most, and usually far less. Thread-safe.
float Dot(const float* a, const float* b, std::int64_t width);
float Dot(const float* a, const std::uint16_t* b, std::int64_t width);
float Dot(const std::uint16_t* a, const std::uint16_t* b, std::int64_t width);

// Dot(query, row, width) and Dot(row, row, width) in one pass over the row: the same bits.
struct DotAndSquare {
  float dot = 0;
  float square = 0;
};
DotAndSquare DotWithSquare(const float* row, const float* query, std::int64_t width);
DotAndSquare DotWithSquare(const std::uint16_t* row, const float* query, std::int64_t width);

}  // namespace siglip
