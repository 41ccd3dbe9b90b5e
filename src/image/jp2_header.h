#pragma once

// What Pillow's Jpeg2KImagePlugin.py reads of a JPEG 2000 file before it decodes: size, mode,
// palette. Private to decode_jp2.cc.

#include "image/convert_rgb.h"

#include "absl/status/statusor.h"

#include <cstdint>
#include <optional>
#include <string_view>

namespace siglip {

struct Jp2Header {
  bool is_codestream = false;  // without the JP2 boxes around
  std::int64_t width = 0;
  std::int64_t height = 0;
  std::string_view mode;
  Palette palette;
  // EnumCS, unless a profile comes first (OpenJPEG 2.5.0 does not tell before it decodes).
  std::optional<std::uint32_t> color_space;
};

bool IsJp2(std::string_view bytes);
absl::StatusOr<Jp2Header> ReadJp2Header(std::string_view bytes);

}  // namespace siglip
