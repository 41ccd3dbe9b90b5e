#include "image/convert_rgb.h"

#include <cstring>

namespace siglip {

void GreyToRgb(const std::uint8_t* grey, std::size_t width, std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x) {
    out[3 * x] = out[3 * x + 1] = out[3 * x + 2] = grey[x];
  }
}

void RgbxToRgb(const std::uint8_t* rgbx, std::size_t width, std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x) std::memcpy(out + 3 * x, rgbx + 4 * x, 3);
}

namespace {

void InkToRgb(std::uint32_t c, std::uint32_t m, std::uint32_t y, std::uint32_t not_k,
              std::uint8_t* out) {
  // nk - muldiv255(c, nk) is never negative: the product is at most nk.
  out[0] = static_cast<std::uint8_t>(not_k - MulDiv255(c, not_k));
  out[1] = static_cast<std::uint8_t>(not_k - MulDiv255(m, not_k));
  out[2] = static_cast<std::uint8_t>(not_k - MulDiv255(y, not_k));
}

}  // namespace

void CmykToRgb(const std::uint8_t* cmyk, std::size_t width, std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x, cmyk += 4, out += 3) {
    InkToRgb(cmyk[0], cmyk[1], cmyk[2], 255U - cmyk[3], out);
  }
}

void InvertedCmykToRgb(const std::uint8_t* cmyk, std::size_t width, std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x, cmyk += 4, out += 3) {
    InkToRgb(255U - cmyk[0], 255U - cmyk[1], 255U - cmyk[2], cmyk[3], out);
  }
}

void PaletteToRgb(const std::uint8_t* index, std::size_t width, const Palette& palette,
                  std::uint8_t* out) {
  for (std::size_t x = 0; x < width; ++x) std::memcpy(out + 3 * x, palette.rgb[index[x]], 3);
}

void UnpackBits(const std::uint8_t* packed, int bits, std::size_t width, std::uint8_t* out) {
  const unsigned per_byte = 8U / static_cast<unsigned>(bits);
  const unsigned mask = (1U << bits) - 1;
  for (std::size_t x = 0; x < width; ++x) {
    const unsigned shift =
        8U - static_cast<unsigned>(bits) * (static_cast<unsigned>(x % per_byte) + 1);
    out[x] = static_cast<std::uint8_t>((packed[x / per_byte] >> shift) & mask);
  }
}

}  // namespace siglip
