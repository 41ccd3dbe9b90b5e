// AVIF through libavif, as Pillow's _avif.c: the first frame, 8-bit RGB, alpha dropped; rotation
// and mirror properties are not applied.

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
  if (result == AVIF_RESULT_OUT_OF_MEMORY)
    return absl::ResourceExhaustedError("AVIF: not enough memory");
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

struct ImageDeleter {
  void operator()(avifImage* image) const { avifImageDestroy(image); }
};
using ImageHandle = std::unique_ptr<avifImage, ImageDeleter>;

// True where libavif 1.4 (Pillow's) drops samples of 10 or 12 bits to 8 before it converts to RGB:
// libyuv has the matrix, but no conversion from that depth to the wanted format. libavif 0.11 would
// convert those in floating point.
bool DropsLowBits(const avifImage& image, bool has_alpha) {
  if (image.depth <= 8) return false;
  switch (image.matrixCoefficients) {
    case AVIF_MATRIX_COEFFICIENTS_BT709:
    case AVIF_MATRIX_COEFFICIENTS_UNSPECIFIED:
    case AVIF_MATRIX_COEFFICIENTS_BT470BG:
    case AVIF_MATRIX_COEFFICIENTS_BT601:
    case AVIF_MATRIX_COEFFICIENTS_BT2020_NCL:
    case AVIF_MATRIX_COEFFICIENTS_CHROMA_DERIVED_NCL:
      break;
    default:
      return false;
  }
  if (!has_alpha) return image.yuvFormat != AVIF_PIXEL_FORMAT_YUV400;
  return image.yuvFormat == AVIF_PIXEL_FORMAT_YUV400 ||
         (image.depth == 12 && image.yuvFormat != AVIF_PIXEL_FORMAT_YUV420);
}

// The picture without its alpha, every sample cut to its 8 high bits. Null without memory.
ImageHandle CutTo8Bits(const avifImage& image) {
  ImageHandle cut(avifImageCreate(image.width, image.height, 8, image.yuvFormat));
  if (cut == nullptr) return nullptr;
  cut->yuvRange = image.yuvRange;
  cut->yuvChromaSamplePosition = image.yuvChromaSamplePosition;
  cut->colorPrimaries = image.colorPrimaries;
  cut->transferCharacteristics = image.transferCharacteristics;
  cut->matrixCoefficients = image.matrixCoefficients;
  if (avifImageAllocatePlanes(cut.get(), AVIF_PLANES_YUV) != AVIF_RESULT_OK) return nullptr;
  avifPixelFormatInfo format;
  avifGetPixelFormatInfo(image.yuvFormat, &format);
  for (int plane = 0; plane < AVIF_PLANE_COUNT_YUV; ++plane) {
    if (image.yuvPlanes[plane] == nullptr || cut->yuvPlanes[plane] == nullptr) continue;
    const bool is_chroma = plane != AVIF_CHAN_Y;
    const std::uint32_t shift_x = is_chroma ? static_cast<std::uint32_t>(format.chromaShiftX) : 0;
    const std::uint32_t shift_y = is_chroma ? static_cast<std::uint32_t>(format.chromaShiftY) : 0;
    const std::uint32_t width = (image.width + shift_x) >> shift_x;
    const std::uint32_t height = (image.height + shift_y) >> shift_y;
    for (std::uint32_t y = 0; y < height; ++y) {
      const std::uint8_t* in = image.yuvPlanes[plane] + std::size_t{y} * image.yuvRowBytes[plane];
      std::uint8_t* out = cut->yuvPlanes[plane] + std::size_t{y} * cut->yuvRowBytes[plane];
      for (std::uint32_t x = 0; x < width; ++x) {
        std::uint16_t sample;
        std::memcpy(&sample, in + std::size_t{2} * x, sizeof(sample));
        out[x] = static_cast<std::uint8_t>(sample >> (image.depth - 8));
      }
    }
  }
  return cut;
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
  const bool has_alpha = decoder->alphaPresent != 0;
  const avifImage* source = decoder->image;
  ImageHandle cut;
  if (DropsLowBits(*source, has_alpha)) {
    cut = CutTo8Bits(*source);
    if (cut == nullptr) return absl::ResourceExhaustedError("AVIF: not enough memory");
    source = cut.get();
  }
  avifRGBImage rgb;
  avifRGBImageSetDefaults(&rgb, source);
  if (rgb.width != width || rgb.height != height) return BadImage(kFormat, "the size changes");
  rgb.depth = 8;
  rgb.format = has_alpha ? AVIF_RGB_FORMAT_RGBA : AVIF_RGB_FORMAT_RGB;
  const std::uint32_t channels = has_alpha ? 4 : 3;
  RgbImage image = AllocateRgb(width, height);
  PixelBuffer rgba(channels == 4 ? static_cast<std::size_t>(width * height) * 4 : 0);
  rgb.pixels = channels == 4 ? rgba.data() : image.pixels.data();
  rgb.rowBytes = rgb.width * channels;
  result = avifImageYUVToRGB(source, &rgb);
  if (result != AVIF_RESULT_OK) return Broken(result);
  if (channels == 4)
    RgbxToRgb(rgba.data(), static_cast<std::size_t>(width * height), image.pixels.data());
  return image;
}

bool Accepts(std::string_view bytes) {
  if (bytes.size() < 12 || bytes.substr(4, 4) != "ftyp") return false;
  const std::string_view brand = bytes.substr(8, 4);
  return brand == "avif" || brand == "avis" || brand == "mif1" || brand == "msf1";
}

}  // namespace

const Codec kAvifCodec = {kFormat, Accepts, ReadHeader, Decode,
                          /*library_reads_header=*/true};

}  // namespace siglip
