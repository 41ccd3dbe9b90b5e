// Any geometry: the vector code equals the plain loops.

#include "base/check.h"
#include "image/resize.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 9) return 0;
  const auto side = [&](std::size_t at, int limit) {
    return 1 + (data[at] | data[at + 1] << 8) % limit;
  };
  siglip::RgbImage image;
  image.width = side(0, 600);
  image.height = std::min(side(2, 600), 60'000 / image.width + 1);
  const int out_width = side(4, 80);
  const int out_height = side(6, 80);
  const auto filter = (data[8] & 1) != 0 ? siglip::Resample::kBicubic : siglip::Resample::kBilinear;
  const auto pillow = (data[8] & 2) != 0 ? siglip::PillowVersion::k12 : siglip::PillowVersion::k13;
  image.pixels = siglip::PixelBuffer(static_cast<std::size_t>(image.width) *
                                     static_cast<std::size_t>(image.height) * 3);
  for (std::size_t i = 0; i < image.pixels.size(); ++i) {
    image.pixels[i] = static_cast<std::uint8_t>(data[i % size] ^ (i >> 3));
  }
  const auto fast = siglip::ResizeRgb(image, out_width, out_height, filter, pillow);
  const auto plain = siglip::ResizeRgbReference(image, out_width, out_height, filter, pillow);
  SIGLIP_CHECK(fast.ok() && plain.ok());
  SIGLIP_CHECK(std::memcmp(fast->pixels.data(), plain->pixels.data(), fast->pixels.size()) == 0);
  return 0;
}
