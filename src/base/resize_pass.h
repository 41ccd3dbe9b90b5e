#pragma once

// One pass of Pillow's resize of 8-bit pixels as data: what src/image computes and a GPU applies.

#include <cstdint>
#include <vector>

namespace siglip {

inline constexpr int kCoefficientBits = 22;  // Pillow's PRECISION_BITS: 32 - 8 - 2

// Output o of a line is, for each channel,
//   clip8((2^21 + sum of taps[j * out_size + o] * in[first[o] + j] over j < count[o]) >> 22)
// in integers. The sum fits in int32; it may be taken modulo 2^32.
struct ResizePass {
  std::int32_t in_size = 0;
  std::int32_t out_size = 0;
  std::int32_t num_taps = 0;        // the largest count
  std::vector<std::int32_t> first;  // [out_size]
  std::vector<std::int32_t> count;  // [out_size]
  std::vector<std::int32_t> taps;   // [num_taps, out_size], 0 past the counts
};

}  // namespace siglip
