#include "image/normalize.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"

namespace siglip {
namespace {

TEST(Normalize, TableEqualsTheDivisionInFloat32ForAllValues) {
  for (const auto& [mean, std] :
       {std::pair(0.5, 0.5), std::pair(0.485, 0.229), std::pair(0.48145466, 0.26862954)}) {
    const std::array<float, 256> table = NormalizeTable(1.0 / 255.0, mean, std);
    for (int v = 0; v < 256; ++v) {
      const float x = static_cast<float>(v) / 255.0F;
      EXPECT_EQ(table[static_cast<std::size_t>(v)],
                (x - static_cast<float>(mean)) / static_cast<float>(std));
    }
  }
}

TEST(Normalize, PlanesComeOneAfterAnother) {
  RgbImage image;
  image.width = 5;
  image.height = 3;
  image.pixels = PixelBuffer(45);
  for (std::size_t i = 0; i < 45; ++i) image.pixels[i] = static_cast<std::uint8_t>(i * 5);
  std::array<std::array<float, 256>, 3> table;
  for (std::size_t c = 0; c < 3; ++c) {
    for (std::size_t v = 0; v < 256; ++v) table[c][v] = static_cast<float>(1000 * c + v);
  }
  std::vector<float> pixels(45);
  NormalizeRgb(image, table, pixels.data());
  for (std::size_t c = 0; c < 3; ++c) {
    for (std::size_t i = 0; i < 15; ++i) {
      EXPECT_EQ(pixels[c * 15 + i], static_cast<float>(1000 * c + (3 * i + c) * 5));
    }
  }
}

}  // namespace
}  // namespace siglip
