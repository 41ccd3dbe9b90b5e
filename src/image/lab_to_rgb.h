#pragma once

// CIE LAB -> sRGB through littleCMS, as Pillow's convert("RGB") of mode LAB. Private to src/image.

#include "absl/status/status.h"

#include <cstddef>
#include <cstdint>

namespace siglip {

// lab: 4 bytes a pixel (L, a, b with their signs offset by 128, unused); rgb: 3 bytes a pixel.
absl::Status LabToRgb(const std::uint8_t* lab, std::size_t pixels, std::uint8_t* rgb);

}  // namespace siglip
