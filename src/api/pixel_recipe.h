#pragma once

// What src/image takes and answers, in the words of the public library.

#include <cstdint>

#include "image/preprocess.h"
#include "siglip/siglip.h"

namespace siglip {

// By info.pixels and its sizes alone.
PreprocessOptions PreprocessOptionsOf(const ModelInfo& info);
// Of a picture that was resized to `size`.
PatchGrid GridOf(const PixelSize& size, std::int64_t patch_size);
PreprocessTimes TimesOf(const StageTimes& stages);

}  // namespace siglip
