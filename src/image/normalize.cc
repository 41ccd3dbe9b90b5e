#include "image/normalize.h"

#include <cstddef>
#include <cstdint>

namespace siglip {

std::array<float, 256> NormalizeTable(double rescale, double mean, double std) {
  std::array<float, 256> table;
  for (std::size_t v = 0; v < table.size(); ++v) {
    const float x = static_cast<float>(static_cast<double>(v) * rescale);
    table[v] = (x - static_cast<float>(mean)) / static_cast<float>(std);
  }
  return table;
}

void NormalizeRgb(const RgbImage& image, const std::array<std::array<float, 256>, 3>& table,
                  float* pixels) {
  const std::size_t count =
      static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.height);
  const std::uint8_t* in = image.pixels.data();
  float* red = pixels;
  float* green = pixels + count;
  float* blue = pixels + 2 * count;
  for (std::size_t i = 0; i < count; ++i) {
    red[i] = table[0][in[3 * i]];
    green[i] = table[1][in[3 * i + 1]];
    blue[i] = table[2][in[3 * i + 2]];
  }
}

float* NormalizePatches(const RgbImage& image, int patch,
                        const std::array<std::array<float, 256>, 3>& table, float* patches) {
  const std::size_t stride = static_cast<std::size_t>(image.width) * 3;
  for (int top = 0; top < image.height; top += patch) {
    for (int left = 0; left < image.width; left += patch) {
      for (int y = top; y < top + patch; ++y) {
        const std::uint8_t* in = image.pixels.data() + static_cast<std::size_t>(y) * stride +
                                 static_cast<std::size_t>(left) * 3;
        for (int x = 0; x < patch; ++x, in += 3, patches += 3) {
          for (std::size_t c = 0; c < 3; ++c) patches[c] = table[c][in[c]];
        }
      }
    }
  }
  return patches;
}

}  // namespace siglip
