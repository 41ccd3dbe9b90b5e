#pragma once

// Rows of stored samples -> RGB, by Pillow's names of the image mode and of the stored layout. One
// call does what Pillow does in two: unpack into the mode, then convert("RGB"). Private to
// src/image. Source: Pillow 13.0.0 src/libImaging/Unpack.c and Convert.c.

#include "image/convert_rgb.h"

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace siglip {

struct RawMode {
  std::string_view mode;  // "1", "L", "P", "RGB", "I;16", ...
  std::string_view raw;   // "1;I", "L;4R", "BGR;16", ...
  int bits;               // per pixel as stored
  // in: width pixels; out: width*3 bytes. palette is looked at by modes P and PA alone.
  void (*to_rgb)(const std::uint8_t* in, std::size_t width, const Palette& palette,
                 std::uint8_t* out);
};

// Null if Pillow has no such pair (or none that this project claims).
const RawMode* FindRawMode(std::string_view mode, std::string_view raw);

inline std::int64_t RawRowBytes(const RawMode& raw, std::int64_t width) {
  return (width * raw.bits + 7) / 8;
}

}  // namespace siglip
