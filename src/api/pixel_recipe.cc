#include "api/pixel_recipe.h"

namespace siglip {

PreprocessOptions PreprocessOptionsOf(const ModelInfo& info) {
  PreprocessOptions options;
  if (info.naflex()) {
    options.patches = {.patch_size = static_cast<int>(info.patch_size),
                       .max_patches = static_cast<int>(info.max_patches)};
  } else {
    options.image_size = static_cast<int>(info.image_size);
  }
  options.resample = static_cast<Resample>(info.pixels.resample);
  options.pillow = static_cast<PillowVersion>(info.pixels.pillow);
  options.rescale_factor = info.pixels.rescale_factor;
  options.mean = info.pixels.mean;
  options.std = info.pixels.std;
  options.max_pixels = info.pixels.max_pixels;
  return options;
}

PatchGrid GridOf(const PixelSize& size, std::int64_t patch_size) {
  return {size.height / patch_size, size.width / patch_size};
}

PreprocessTimes TimesOf(const StageTimes& stages) {
  return {.decode_ns = stages.decode_ns,
          .resize_ns = stages.resize_ns,
          .normalize_ns = stages.normalize_ns};
}

}  // namespace siglip
