// Arbitrary bytes through header, decoder, resize and normalisation, up to one million pixels.
// Laws besides "no crash": what decodes has a readable header of that size, and Preprocess gives
// the same verdict as its parts.

#include "base/check.h"
#include "image/preprocess.h"

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::int64_t kMaxPixels = 1 << 20;
  constexpr int kImageSize = 16;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto header = siglip::ReadImageHeader(bytes, kMaxPixels);
  const auto image = siglip::DecodeRgb(bytes, kMaxPixels);
  if (image.ok()) {
    SIGLIP_CHECK(header.ok());
    SIGLIP_CHECK(header->width == image->width && header->height == image->height);
    SIGLIP_CHECK(header->working_set_bytes >= static_cast<std::int64_t>(image->pixels.size()));
  }
  siglip::PreprocessOptions options;
  options.image_size = kImageSize;
  options.max_pixels = kMaxPixels;
  if (size % 2 == 1) options.pillow = siglip::PillowVersion::k12;
  const siglip::Preprocessor preprocessor(options);
  std::vector<float> pixels(3 * kImageSize * kImageSize);
  const bool is_preprocessed = preprocessor.Preprocess(bytes, pixels.data()).ok();
  SIGLIP_CHECK(!is_preprocessed || image.ok());
  return 0;
}
