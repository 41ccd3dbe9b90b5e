#pragma once

// A picture with many extremes, so that a resize clips and overshoots.

#include "image/preprocess.h"

#include <cstddef>
#include <cstdint>
#include <random>

namespace siglip {

inline RgbImage Noise(int width, int height, std::uint32_t seed) {
  RgbImage image;
  image.width = width;
  image.height = height;
  image.pixels =
      PixelBuffer(static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3);
  std::minstd_rand random(seed);
  for (std::size_t i = 0; i < image.pixels.size(); ++i) {
    const auto r = static_cast<std::uint32_t>(random() >> 4);
    image.pixels[i] = static_cast<std::uint8_t>((r & 3) == 0 ? 0 : (r & 3) == 1 ? 255 : r >> 8);
  }
  return image;
}

}  // namespace siglip
