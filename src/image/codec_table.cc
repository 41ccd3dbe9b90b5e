#include "image/codec.h"

#include <array>
#include <string>

namespace siglip {

// Pillow tries BMP, GIF, JPEG, PPM and PNG first, then the others by the plugins' names.
std::span<const Codec> AllCodecs() {
  static const std::array kCodecs = {kBmpCodec,  kGifCodec, kJpegCodec, kPnmCodec, kPngCodec,
                                     kAvifCodec, kJp2Codec, kTiffCodec, kWebpCodec};
  return kCodecs;
}

absl::Status BadImage(std::string_view format, std::string_view what) {
  return absl::InvalidArgumentError(std::string(format) + ": " + std::string(what));
}

RgbImage AllocateRgb(std::int64_t width, std::int64_t height) {
  RgbImage image;
  image.width = static_cast<int>(width);
  image.height = static_cast<int>(height);
  image.pixels =
      PixelBuffer(static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3);
  return image;
}

}  // namespace siglip
