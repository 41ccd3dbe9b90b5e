#include <algorithm>
#include <cmath>
#include <cstdint>

#include "image/preprocess.h"

namespace siglip {
namespace {

// transformers' own limits of the scale, and how near it comes to the best one.
constexpr double kEpsilon = 1e-5;
constexpr double kMaxScale = 100;

// A side in patches.
std::int64_t Patches(double scale, std::int64_t side, int patch) {
  const double patches = std::ceil(static_cast<double>(side) * scale / patch);
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(patches));
}

}  // namespace

std::optional<PixelSize> NaflexSize(std::int64_t width, std::int64_t height,
                                    const PatchOptions& options) {
  const auto fits = [&](double scale) {
    // A side has at most 2^28 pixels and a scale is at most 100: no overflow.
    return Patches(scale, height, options.patch_size) * Patches(scale, width, options.patch_size) <=
           options.max_patches;
  };
  double low = kEpsilon / 10;
  double high = kMaxScale;
  while (high - low >= kEpsilon) {
    const double middle = (low + high) / 2;
    (fits(middle) ? low : high) = middle;
  }
  if (!fits(low)) return std::nullopt;
  const auto side = [&](std::int64_t pixels) {
    return static_cast<int>(Patches(low, pixels, options.patch_size)) * options.patch_size;
  };
  return PixelSize{.width = side(width), .height = side(height)};
}

}  // namespace siglip
