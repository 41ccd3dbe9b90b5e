#pragma once

// Image.convert("RGB") from Pillow's other modes, row by row. Private to src/image.
// Source: Pillow 13.0.0 src/libImaging/Convert.c.

#include <cstddef>
#include <cstdint>

namespace siglip {

// out: width*3 bytes; in: width pixels of the named layout.
void GreyToRgb(const std::uint8_t* grey, std::size_t width, std::uint8_t* out);
void RgbxToRgb(const std::uint8_t* rgbx, std::size_t width, std::uint8_t* out);
// c, m, y, k bytes, 255 = full ink.
void CmykToRgb(const std::uint8_t* cmyk, std::size_t width, std::uint8_t* out);
// 4 bytes a pixel, inverted CMYK as in Adobe's JPEGs (255 = no ink).
void InvertedCmykToRgb(const std::uint8_t* cmyk, std::size_t width, std::uint8_t* out);

// One pixel of Y, Cb, Cr bytes by Pillow's own 6-bit tables: neither libjpeg's nor the rounded
// formula.
void YCbCrToRgb(const std::uint8_t* ycc, std::uint8_t* out);

// Pillow's MULDIV255: a*b/255 rounded.
constexpr std::uint32_t MulDiv255(std::uint32_t a, std::uint32_t b) {
  const std::uint32_t t = a * b + 128;
  return ((t >> 8) + t) >> 8;
}

// 256 RGB triples; entries past the file's palette are black, as Pillow's.
struct Palette {
  std::uint8_t rgb[256][3] = {};
};
void PaletteToRgb(const std::uint8_t* index, std::size_t width, const Palette& palette,
                  std::uint8_t* out);

// I;16 -> RGB: values above 255 are clipped, not scaled.
inline std::uint8_t ClipI16(std::uint32_t value) {
  return static_cast<std::uint8_t>(value > 255 ? 255 : value);
}

// Expands `bits`-bit samples (1, 2 or 4, most significant first) to one byte each, unscaled.
void UnpackBits(const std::uint8_t* packed, int bits, std::size_t width, std::uint8_t* out);

}  // namespace siglip
