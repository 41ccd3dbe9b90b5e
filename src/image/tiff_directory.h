#pragma once

// The first directory of a TIFF as Pillow's TiffImagePlugin.py understands it: which mode, which
// stored layout, which decoder. Private to decode_tiff.cc,
// and what jpeg_header.cc and decode_avif.cc need to know of Exif.

#include "image/convert_rgb.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace siglip {

// The integers of a tag as the file stores them: a list of offsets may be as long as the file.
// Borrows the file's bytes.
class TiffIntegers {
 public:
  TiffIntegers() = default;
  TiffIntegers(std::string_view data, std::uint32_t type, bool is_big_endian);

  // Python's view: bytes are none, though a list may be made of them.
  static bool IsInteger(std::uint32_t type);

  std::size_t size() const { return unit_ == 0 ? 0 : data_.size() / unit_; }
  bool empty() const { return size() == 0; }
  // Values that do not fit are the largest that does. REQUIRES: i < size().
  std::int64_t operator[](std::size_t i) const;

 private:
  std::string_view data_;
  std::uint32_t type_ = 0;
  std::size_t unit_ = 0;
  bool is_big_endian_ = false;
};

// Bytes to put into the file before libtiff reads it.
struct TiffRepair {
  std::size_t at = 0;
  std::string bytes;
};

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
  TiffIntegers offsets;
  // Of all files; of compressed ones as far as the tags are integers (strips: 0).
  std::int64_t tile_width = 0;
  std::int64_t tile_height = 0;
  std::int64_t bits_per_pixel = 0;
  int bands_in_key = 1;             // Pillow's bps_count
  bool has_odd_counts = false;      // of a compressed file: see HasOddCounts
  std::vector<TiffRepair> repairs;  // of a compressed file
  Palette palette;
  std::int64_t list_bytes = 0;  // what reading the other lists of the directory and repairs take
};

// The layout borrows `bytes`.
absl::StatusOr<TiffLayout> ReadTiffLayout(std::string_view bytes);

// What a TIFF file starts with to Pillow.
bool IsTiff(std::string_view bytes);

// Whether Pillow reads Exif data: a TIFF header of 8 bytes, "Exif\\0\\0" up to twice before it.
bool IsExif(std::string_view bytes);

// Whether Pillow's JPEG plugin fails with an IndexError at the resolution in these Exif data: it
// takes any tag for a numerator and a denominator.
bool ExifResolutionIsCut(std::string_view exif);

}  // namespace siglip
