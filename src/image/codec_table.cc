#include "image/codec.h"

#include <algorithm>
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
  std::string text = std::string(format) + ": " + std::string(what);
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, ' ');
  return absl::InvalidArgumentError(text);
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
