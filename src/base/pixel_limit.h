#pragma once

#include <cstdint>

namespace siglip {

// Pillow refuses more than twice MAX_IMAGE_PIXELS (89,478,485).
inline constexpr std::int64_t kPillowMaxPixels = 178'956'970;

}  // namespace siglip
