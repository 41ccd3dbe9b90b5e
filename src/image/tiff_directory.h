#pragma once

// The first directory of a TIFF as Pillow's TiffImagePlugin.py understands it: which mode, which
// stored layout, which decoder. Private to decode_tiff.cc.

#include "image/convert_rgb.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace siglip {

struct TiffLayout {
  std::string_view mode;   // Pillow's image mode
  std::string raw;         // Pillow's raw mode
  std::int64_t width = 0;  // as stored, before the orientation
  std::int64_t height = 0;
  int orientation = 1;
  bool is_planar = false;
  bool uses_libtiff = false;  // any compression
  std::uint64_t directory_offset = 0;
  // Of files without compression: tiles (or strips, as wide as the image) in stored order.
  std::vector<std::int64_t> offsets;
  std::int64_t tile_width = 0;
  std::int64_t tile_height = 0;
  std::int64_t bits_per_pixel = 0;
  int bands_in_key = 1;  // Pillow's bps_count
  Palette palette;
};

absl::StatusOr<TiffLayout> ReadTiffLayout(std::string_view bytes);

}  // namespace siglip
