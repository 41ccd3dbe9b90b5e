// AVIF through libavif, as Pillow's _avif.c: the first frame, 8-bit RGB, alpha dropped; rotation
// and mirror properties are not applied.

#include "image/box.h"
#include "image/byte_reader.h"
#include "image/codec.h"
#include "image/convert_rgb.h"
#include "image/tiff_directory.h"

#include "base/status_macros.h"

#include "absl/strings/str_cat.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <avif/avif.h>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "AVIF";

// AV1 frames may be larger than the file declares its picture; libavif scales them down. They are
// refused above twice the picture (cells of a grid, which is cut to its size) and a megapixel: the
// memory that is claimed covers those. Pillow takes them up to 16384x16384: a stated exception.
constexpr std::int64_t kMinFrameLimit = 1 << 20;

std::uint32_t FrameLimit(const avifImage& image) {
  const std::int64_t pixels = std::int64_t{image.width} * image.height;
  return static_cast<std::uint32_t>(
      std::min<std::int64_t>(std::max(kMinFrameLimit, 2 * pixels), AVIF_DEFAULT_IMAGE_SIZE_LIMIT));
}

struct DecoderDeleter {
  void operator()(avifDecoder* decoder) const { avifDecoderDestroy(decoder); }
};
using DecoderHandle = std::unique_ptr<avifDecoder, DecoderDeleter>;

absl::Status Broken(avifResult result) {
  if (result == AVIF_RESULT_OUT_OF_MEMORY)
    return absl::ResourceExhaustedError("AVIF: not enough memory");
  return BadImage(kFormat, avifResultToString(result));
}

// libavif's reader of bytes in memory, which keeps what was read: the offset that stands before the
// Exif data is not handed out.
struct Reader {
  explicit Reader(std::string_view file) : bytes(file) {
    io.read = [](avifIO* self_io, std::uint32_t flags, std::uint64_t offset, std::size_t size,
                 avifROData* out) {
      auto& self = *static_cast<Reader*>(self_io->data);
      if (flags != 0 || offset > self.bytes.size()) return AVIF_RESULT_IO_ERROR;
      const std::string_view part = self.bytes.substr(static_cast<std::size_t>(offset), size);
      try {
        self.parts.push_back(part);
      } catch (const std::bad_alloc&) {
        return AVIF_RESULT_OUT_OF_MEMORY;
      }
      out->data = reinterpret_cast<const std::uint8_t*>(part.data());
      out->size = part.size();
      return AVIF_RESULT_OK;
    };
    io.sizeHint = bytes.size();
    io.persistent = AVIF_TRUE;
    io.data = this;
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  avifIO io = {};
  std::string_view bytes;
  std::vector<std::string_view> parts;
};

// What libavif 1.4 (Pillow's) checks of the Exif item, and Pillow after it: the TIFF header is
// where the item says, and the data begin with one behind "Exif\0\0" or nothing.
absl::Status CheckExif(std::string_view exif, const std::vector<std::string_view>& parts) {
  const absl::Status invalid = BadImage(kFormat, "invalid Exif data");
  const std::size_t header =
      std::min(exif.find(std::string_view("MM\0*", 4)), exif.find(std::string_view("II*\0", 4)));
  if (header == std::string_view::npos || header + 4 >= exif.size()) return invalid;
  for (const std::string_view part : parts) {
    // Items in several pieces, or within the 'meta' box, are not told apart.
    if (part.size() != exif.size() + 4 || part.substr(4) != exif) continue;
    if (U32Be(part, 0) != header) return invalid;
  }
  return IsExif(exif) ? absl::OkStatus() : invalid;
}

struct Box {
  std::string_view type;
  std::string_view body;
};

std::optional<Box> NextBox(ByteReader& reader) {
  const std::optional<BoxHead> head = ReadBoxHead(reader);
  if (!head) return std::nullopt;
  const bool to_end = head->size == 0 && head->head_bytes == 8;
  const std::uint64_t size = to_end ? head->head_bytes + reader.remaining() : head->size;
  if (size < head->head_bytes || size - head->head_bytes > reader.remaining()) return std::nullopt;
  return Box{head->type, reader.Read(static_cast<std::size_t>(size - head->head_bytes))};
}

// The body of the first box of a type; empty if there is none.
std::string_view FindBox(std::string_view boxes, std::string_view type) {
  ByteReader reader(boxes);
  while (const std::optional<Box> box = NextBox(reader)) {
    if (box->type == type) return box->body;
  }
  return {};
}

// What libavif 1.4 (Pillow's) checks of the items' properties and 0.11 does not: reserved bits
// behind the range of colours, and that samples have planes.
absl::Status CheckProperties(std::string_view file) {
  const std::string_view meta = FindBox(file, "meta");
  if (meta.size() < 4) return absl::OkStatus();
  ByteReader reader(FindBox(FindBox(meta.substr(4), "iprp"), "ipco"));
  while (const std::optional<Box> box = NextBox(reader)) {
    const std::string_view s = box->body;
    if (box->type == "colr" && s.substr(0, 4) == "nclx" && s.size() > 10 && (U8(s, 10) & 127)) {
      return BadImage(kFormat, "reserved bits of the colour information are set");
    }
    if (box->type == "pixi" && s.size() > 4 && s[4] == 0) {
      return BadImage(kFormat, "samples of no planes");
    }
  }
  return absl::OkStatus();
}

// Not assigned to: the decoder looks at its reader to the last.
struct Parsed {
  std::unique_ptr<Reader> reader;  // outlives the decoder
  DecoderHandle decoder;
};

absl::StatusOr<Parsed> Parse(std::string_view bytes,
                             std::uint32_t max_pixels = AVIF_DEFAULT_IMAGE_SIZE_LIMIT) {
  Parsed parsed = {std::make_unique<Reader>(bytes), DecoderHandle(avifDecoderCreate())};
  avifDecoder* decoder = parsed.decoder.get();
  if (decoder == nullptr) return absl::ResourceExhaustedError("AVIF: not enough memory");
  decoder->maxThreads = 1;
  decoder->imageSizeLimit = max_pixels;
  decoder->ignoreXMP = AVIF_TRUE;
  // What Pillow relaxes: a clean aperture that is wrong, and a missing 'pixi' (old libheif).
  decoder->strictFlags &= ~(AVIF_STRICT_CLAP_VALID | AVIF_STRICT_PIXI_REQUIRED);
  avifDecoderSetIO(decoder, &parsed.reader->io);
  const avifResult result = avifDecoderParse(decoder);
  if (result != AVIF_RESULT_OK) return Broken(result);
  SIGLIP_RETURN_IF_ERROR(CheckProperties(bytes));
  const avifRWData& exif = decoder->image->exif;
  if (exif.size > 0) {
    const std::string_view data(reinterpret_cast<const char*>(exif.data), exif.size);
    SIGLIP_RETURN_IF_ERROR(CheckExif(data, parsed.reader->parts));
  }
  return parsed;
}

struct ImageDeleter {
  void operator()(avifImage* image) const { avifImageDestroy(image); }
};
using ImageHandle = std::unique_ptr<avifImage, ImageDeleter>;

// Whether libyuv has the matrix.
bool IsMatrixOfLibyuv(const avifImage& image) {
  switch (image.matrixCoefficients) {
    case AVIF_MATRIX_COEFFICIENTS_BT709:
    case AVIF_MATRIX_COEFFICIENTS_UNSPECIFIED:
    case AVIF_MATRIX_COEFFICIENTS_BT470BG:
    case AVIF_MATRIX_COEFFICIENTS_BT601:
    case AVIF_MATRIX_COEFFICIENTS_BT2020_NCL:
      return true;
    case AVIF_MATRIX_COEFFICIENTS_CHROMA_DERIVED_NCL:
      break;
    default:
      return false;
  }
  switch (image.colorPrimaries) {
    case AVIF_COLOR_PRIMARIES_BT709:
    case AVIF_COLOR_PRIMARIES_UNSPECIFIED:
    case AVIF_COLOR_PRIMARIES_BT470BG:
    case AVIF_COLOR_PRIMARIES_BT601:
    case AVIF_COLOR_PRIMARIES_BT2020:
      return true;
    default:
      return false;
  }
}

// True where libavif 1.4 (Pillow's) drops samples of 10 or 12 bits to 8 before it converts to RGB:
// libyuv has the matrix, but no conversion from that depth to the wanted format. libavif 0.11 would
// convert those in floating point.
bool DropsLowBits(const avifImage& image, bool has_alpha) {
  if (image.depth <= 8 || !IsMatrixOfLibyuv(image)) return false;
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
  SIGLIP_ASSIGN_OR_RETURN(const Parsed parsed, Parse(bytes));
  avifDecoder* const decoder = parsed.decoder.get();
  ImageHeader header;
  header.format = std::string(kFormat);
  header.width = decoder->image->width;
  header.height = decoder->image->height;
  // Planes of up to 16 bits with alpha, the AV1 decoder's frame buffers, RGBA and RGB.
  header.working_set_bytes = header.width * header.height * 32 + (16 << 20);
  return header;
}

absl::StatusOr<RgbImage> Decode(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const Parsed declared, Parse(bytes));
  SIGLIP_ASSIGN_OR_RETURN(const Parsed parsed, Parse(bytes, FrameLimit(*declared.decoder->image)));
  avifDecoder* const decoder = parsed.decoder.get();
  const std::int64_t width = decoder->image->width;
  const std::int64_t height = decoder->image->height;
  avifResult result = avifDecoderNthImage(decoder, 0);
  if (result != AVIF_RESULT_OK) return Broken(result);
  const bool has_alpha = decoder->alphaPresent != 0;
  // Grey has no colours to be identical: libavif 1.4 takes this matrix, 0.11 refuses.
  if (decoder->image->yuvFormat == AVIF_PIXEL_FORMAT_YUV400 &&
      decoder->image->matrixCoefficients == AVIF_MATRIX_COEFFICIENTS_IDENTITY) {
    decoder->image->matrixCoefficients = AVIF_MATRIX_COEFFICIENTS_BT601;
  }
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
