#pragma once

// What Pillow's JpegImagePlugin.py reads of a JPEG before it decodes, and what it refuses there.
// Private to decode_jpeg.cc.

#include "absl/status/statusor.h"

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace siglip {

struct JpegHeader {
  int width = 0;
  int height = 0;
  int layers = 0;
  bool progressive = false;
  bool multi_scan = false;
  bool arithmetic = false;
  bool lossless = false;
  std::size_t frame_at = 0;  // the byte that tells the kind of frame
  std::size_t scan_at = 0;   // behind the first scan's header
  std::int64_t coefficient_blocks = 0;
};

absl::StatusOr<JpegHeader> ReadJpegHeader(std::string_view bytes);

}  // namespace siglip
