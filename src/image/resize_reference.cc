// The resize as Pillow states it, in plain loops. Never optimised: ResizeRgb is tested against it.

#include "base/status_macros.h"
#include "image/resize.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace siglip {
namespace {

std::int32_t Tap(const ResampleTable& table, int output, int index) {
  const std::int16_t* group = table.TapsOf(output) + (index / 4) * 8 + index % 4;
  return group[0] * 2048 + group[4];
}

std::uint8_t Clip8(std::int64_t sum) {
  return static_cast<std::uint8_t>(std::clamp<std::int64_t>(sum >> kCoefficientBits, 0, 255));
}

RgbImage Pass(const RgbImage& in, const ResampleTable& table, bool is_horizontal) {
  RgbImage out;
  out.width = is_horizontal ? table.out_size : in.width;
  out.height = is_horizontal ? in.height : table.out_size;
  out.pixels =
      PixelBuffer(static_cast<std::size_t>(out.width) * static_cast<std::size_t>(out.height) * 3);
  for (int y = 0; y < out.height; ++y) {
    for (int x = 0; x < out.width; ++x) {
      const int o = is_horizontal ? x : y;
      for (int c = 0; c < 3; ++c) {
        std::int64_t sum = std::int64_t{1} << (kCoefficientBits - 1);
        for (int t = 0; t < table.count[o]; ++t) {
          const int in_x = is_horizontal ? table.first[o] + t : x;
          const int in_y = is_horizontal ? y : table.first[o] + t;
          const std::size_t at = (static_cast<std::size_t>(in_y) * in.width + in_x) * 3 + c;
          sum += std::int64_t{Tap(table, o, t)} * in.pixels[at];
        }
        out.pixels[(static_cast<std::size_t>(y) * out.width + x) * 3 + c] = Clip8(sum);
      }
    }
  }
  return out;
}

RgbImage Copy(const RgbImage& in) {
  RgbImage out;
  out.width = in.width;
  out.height = in.height;
  out.pixels = PixelBuffer(in.pixels.size());
  std::copy_n(in.pixels.data(), in.pixels.size(), out.pixels.data());
  return out;
}

}  // namespace

absl::StatusOr<RgbImage> ResizeRgbReference(const RgbImage& image, int out_width, int out_height,
                                            Resample filter, PillowVersion pillow) {
  SIGLIP_ASSIGN_OR_RETURN(const ResampleTable horizontal,
                          MakeResampleTable(image.width, out_width, filter));
  SIGLIP_ASSIGN_OR_RETURN(const ResampleTable vertical,
                          MakeResampleTable(image.height, out_height, filter));
  const bool vertical_first =
      VerticalPassFirst(image.width, image.height, out_width, out_height, pillow);
  RgbImage result = Copy(image);
  for (const bool is_horizontal : {!vertical_first, vertical_first}) {
    const ResampleTable& table = is_horizontal ? horizontal : vertical;
    if (table.in_size != table.out_size) result = Pass(result, table, is_horizontal);
  }
  return result;
}

}  // namespace siglip
