#pragma once

// Pillow's two-pass resampling of 8-bit RGB, bit for bit.
// Source: Pillow 13.0.0 src/libImaging/Resample.c (precompute_coeffs, normalize_coeffs_8bpc,
// ImagingResampleInner). Every pass is out = clip8((2^21 + sum k[j]*pixel[j]) >> 22) in integers,
// with 8-bit pixels between the passes.

#include "base/aligned_buffer.h"
#include "base/resize_pass.h"
#include "base/rgb_resizer.h"
#include "image/preprocess.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace siglip {

// The taps of one pass: output o reads input pixels first[o] .. first[o]+count[o]-1.
// A coefficient k (|k| < 2^23) is stored as k = high*2^11 + low with 0 <= low < 2^11, so that
// products with pixels can be summed by 16-bit multiply-add instructions; sums are taken modulo
// 2^32, which is exact because the true sum fits in int32. `taps` holds padded_taps (a multiple of
// 4, zero-filled) per output, in groups of 4: high 0..3, low 0..3.
struct ResampleTable {
  int in_size = 0;
  int out_size = 0;
  int padded_taps = 0;
  std::vector<std::int32_t> first;
  std::vector<std::int32_t> count;
  AlignedBuffer<std::int16_t> taps;

  const std::int16_t* TapsOf(int output) const {
    return taps.data() +
           static_cast<std::size_t>(output) * static_cast<std::size_t>(padded_taps) * 2;
  }
};

// ResourceExhausted if the table would pass kMaxResampleTableBytes.
absl::StatusOr<ResampleTable> MakeResampleTable(int in_size, int out_size, Resample filter);

// 4 bytes a tap; 512 MiB are an input side of 33.5 million pixels (Pillow's own limit is 67
// million).
inline constexpr std::int64_t kMaxResampleTableBytes = std::int64_t{512} << 20;
// Rows between the two passes are kept in a ring as long as the second pass needs them.
inline constexpr std::int64_t kMaxResampleRingBytes = std::int64_t{1} << 30;

// Upper bound of the scratch memory of a resize, without its output.
std::int64_t ResizeScratchBytes(std::int64_t in_width, std::int64_t in_height, int out_width,
                                int out_height);

// REQUIRES: a non-empty image, out_width > 0, out_height > 0.
absl::StatusOr<RgbImage> ResizeRgb(const RgbImage& image, int out_width, int out_height,
                                   Resample filter, PillowVersion pillow);

// The same on another device. Null if that leaves it to the caller, or nothing is to be resized.
absl::StatusOr<std::optional<RgbImage>> ResizeRgbBy(RgbResizer& resizer, const std::uint8_t* rgb,
                                                    const PixelSize& from, const PixelSize& to,
                                                    Resample filter, PillowVersion pillow);

// The same in plain loops: the definition that ResizeRgb is tested against.
absl::StatusOr<RgbImage> ResizeRgbReference(const RgbImage& image, int out_width, int out_height,
                                            Resample filter, PillowVersion pillow);

// True if the vertical pass runs first (`pillow` 13's rule for tall pictures).
bool VerticalPassFirst(int in_width, int in_height, int out_width, int out_height,
                       PillowVersion pillow);

}  // namespace siglip
