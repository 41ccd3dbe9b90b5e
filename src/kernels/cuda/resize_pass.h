#pragma once

// The arithmetic of one pass of a resize, for the GPU and for its test on the CPU. Integers only,
// so both give the same bytes.

#include <cstdint>

#include "base/resize_pass.h"
#include "kernels/cuda/device_code.h"

namespace siglip::cuda {

enum class ResizeAxis { kHorizontal, kVertical };

// See base/resize_pass.h for first, count and taps.
struct ResizePassArgs {
  ResizeAxis axis;
  const std::uint8_t* in;     // rows of in_row_bytes, RGB
  std::int32_t in_row_bytes;  // kVertical: == row_bytes
  const std::int32_t *first, *count, *taps;
  std::int32_t out_size;
  std::uint8_t* out;  // [rows, row_bytes]
  std::int32_t rows, row_bytes;
};

// Byte `byte` of row `row` of the output.
template <ResizeAxis kAxis>
SIGLIP_HOST_DEVICE std::uint8_t ResizedByte(const ResizePassArgs& p, std::int32_t row,
                                            std::int32_t byte) {
  constexpr bool kAlong = kAxis == ResizeAxis::kHorizontal;
  const std::int32_t o = kAlong ? byte / 3 : row;
  const std::int32_t step = kAlong ? 3 : p.in_row_bytes;
  const std::uint8_t* in =
      kAlong ? p.in + static_cast<std::int64_t>(row) * p.in_row_bytes + 3 * p.first[o] + byte % 3
             : p.in + static_cast<std::int64_t>(p.first[o]) * p.in_row_bytes + byte;
  const std::int32_t* tap = p.taps + o;
  std::uint32_t sum = std::uint32_t{1} << (kCoefficientBits - 1);
  for (std::int32_t j = 0; j < p.count[o]; ++j) {
    sum += static_cast<std::uint32_t>(*tap) * *in;
    tap += p.out_size;
    in += step;
  }
  const std::int32_t value = static_cast<std::int32_t>(sum) >> kCoefficientBits;
  return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

}  // namespace siglip::cuda
