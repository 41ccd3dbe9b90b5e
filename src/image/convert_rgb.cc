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

namespace {

// The tables of Pillow's ConvertYCbCr.c: factor * (i - 128) with 6 fraction bits, plus a half, cut
// toward zero.
struct YCbCrTables {
  std::int16_t red_of_cr[256];
  std::int16_t green_of_cb[256];
  std::int16_t green_of_cr[256];
  std::int16_t blue_of_cb[256];
};

constexpr std::int16_t SixBits(double factor, int i) {
  return static_cast<std::int16_t>(factor * (i - 128) * 64 + 0.5);
}

constexpr YCbCrTables MakeTables() {
  YCbCrTables tables = {};
  for (int i = 0; i < 256; ++i) {
    tables.red_of_cr[i] = SixBits(1.402, i);
    tables.green_of_cb[i] = SixBits(-0.34414, i);
    tables.green_of_cr[i] = SixBits(-0.71414, i);
    tables.blue_of_cb[i] = SixBits(1.772, i);
  }
  return tables;
}

constexpr YCbCrTables kYCbCr = MakeTables();

std::uint8_t Clip(int value) {
  return static_cast<std::uint8_t>(value < 0 ? 0 : (value > 255 ? 255 : value));
}

}  // namespace

void YCbCrToRgb(const std::uint8_t* ycc, std::uint8_t* out) {
  const int y = ycc[0];
  out[0] = Clip(y + (kYCbCr.red_of_cr[ycc[2]] >> 6));
  out[1] = Clip(y + ((kYCbCr.green_of_cb[ycc[1]] + kYCbCr.green_of_cr[ycc[2]]) >> 6));
  out[2] = Clip(y + (kYCbCr.blue_of_cb[ycc[1]] >> 6));
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
