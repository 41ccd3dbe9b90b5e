// AVIF through libavif, as Pillow's _avif.c: the first frame, 8-bit RGB, alpha dropped; rotation and
// mirror properties are not applied.

#include "image/codec.h"
#include "image/convert_rgb.h"

#include "base/status_macros.h"

#include "absl/strings/str_cat.h"

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include <avif/avif.h>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "AVIF";

struct DecoderDeleter {
  void operator()(avifDecoder* decoder) const { avifDecoderDestroy(decoder); }
};
using DecoderHandle = std::unique_ptr<avifDecoder, DecoderDeleter>;

absl::Status Broken(avifResult result) {
  if (result == AVIF_RESULT_OUT_OF_MEMORY) return absl::ResourceExhaustedError("AVIF: not enough memory");
  return BadImage(kFormat, avifResultToString(result));
}

absl::StatusOr<DecoderHandle> Parse(std::string_view bytes) {
  DecoderHandle decoder(avifDecoderCreate());
  if (decoder == nullptr) return absl::ResourceExhaustedError("AVIF: not enough memory");
  decoder->maxThreads = 1;
  decoder->ignoreExif = AVIF_TRUE;
  decoder->ignoreXMP = AVIF_TRUE;
  // What Pillow relaxes: a clean aperture that is wrong, and a missing 'pixi' (old libheif).
  decoder->strictFlags &= ~(AVIF_STRICT_CLAP_VALID | AVIF_STRICT_PIXI_REQUIRED);
  avifResult result = avifDecoderSetIOMemory(
      decoder.get(), reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  if (result == AVIF_RESULT_OK) result = avifDecoderParse(decoder.get());
  if (result != AVIF_RESULT_OK) return Broken(result);
  return decoder;
}

absl::StatusOr<ImageHeader> ReadHeader(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const DecoderHandle decoder, Parse(bytes));
  ImageHeader header;
  header.format = std::string(kFormat);
  header.width = decoder->image->width;
  header.height = decoder->image->height;
  // Planes of up to 16 bits with alpha, the AV1 decoder's frame buffers, RGBA and RGB.
  header.working_set_bytes = header.width * header.height * 32 + (16 << 20);
  return header;
}

absl::StatusOr<RgbImage> Decode(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const DecoderHandle decoder, Parse(bytes));
  const std::int64_t width = decoder->image->width;
  const std::int64_t height = decoder->image->height;
  avifResult result = avifDecoderNthImage(decoder.get(), 0);
  if (result != AVIF_RESULT_OK) return Broken(result);
  avifRGBImage rgb;
  avifRGBImageSetDefaults(&rgb, decoder->image);
  if (rgb.width != width || rgb.height != height) return BadImage(kFormat, "the size changes");
  rgb.depth = 8;
  rgb.format = decoder->alphaPresent != 0 ? AVIF_RGB_FORMAT_RGBA : AVIF_RGB_FORMAT_RGB;
  const std::uint32_t channels = decoder->alphaPresent != 0 ? 4 : 3;
  RgbImage image = AllocateRgb(width, height);
  PixelBuffer rgba(channels == 4 ? static_cast<std::size_t>(width * height) * 4 : 0);
  rgb.pixels = channels == 4 ? rgba.data() : image.pixels.data();
  rgb.rowBytes = rgb.width * channels;
  result = avifImageYUVToRGB(decoder->image, &rgb);
  if (result != AVIF_RESULT_OK) return Broken(result);
  if (channels == 4) RgbxToRgb(rgba.data(), static_cast<std::size_t>(width * height), image.pixels.data());
  return image;
}

bool Accepts(std::string_view bytes) {
  if (bytes.size() < 12 || bytes.substr(4, 4) != "ftyp") return false;
  const std::string_view brand = bytes.substr(8, 4);
  return brand == "avif" || brand == "avis" || brand == "mif1" || brand == "msf1";
}

}  // namespace

const Codec kAvifCodec = {kFormat, Accepts, ReadHeader, Decode};

}  // namespace siglip
