// JPEG 2000 (files and bare codestreams) through OpenJPEG, tile by tile as Pillow's Jpeg2KDecode.c.

#include "image/byte_reader.h"
#include "image/codec.h"
#include "image/convert_rgb.h"
#include "image/jp2_codestream.h"
#include "image/jp2_header.h"

#include "base/status_macros.h"

#include "absl/strings/str_cat.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <openjpeg.h>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "JPEG2000";
constexpr std::int64_t kMaxTileBytes = std::int64_t{1} << 32;

// OpenJPEG visits every packet that the header declares, 100 ns each, though the file holds none.
// The largest picture in precincts of 32x32 has 5 million in 5 layers. Pillow has no limit: this is
// a stated exception.
constexpr std::int64_t kMaxPackets = 30'000'000;
// Coding styles and tables of lengths, more than most tiles have, each with a style of its own and
// one for each other component. Files that repeat them without end are for Decode: a door's thread
// asks for the header.
constexpr std::int64_t kMaxHeaderSegments = 300'000;
// What such a file counts as: all that a decoder may take.
constexpr std::int64_t kUnknownBytes = std::int64_t{4} << 30;

struct ImageDeleter {
  void operator()(opj_image_t* image) const { opj_image_destroy(image); }
};

struct Memory {
  std::string_view bytes;
  std::size_t position = 0;
};

class Stream {
 public:
  explicit Stream(Memory& memory) : stream_(opj_stream_create(1 << 16, OPJ_TRUE)) {
    if (stream_ == nullptr) return;
    opj_stream_set_read_function(stream_, [](void* out, OPJ_SIZE_T size, void* data) -> OPJ_SIZE_T {
      auto* m = static_cast<Memory*>(data);
      const std::size_t count = std::min<std::size_t>(size, m->bytes.size() - m->position);
      std::memcpy(out, m->bytes.data() + m->position, count);
      m->position += count;
      return count == 0 ? static_cast<OPJ_SIZE_T>(-1) : count;
    });
    opj_stream_set_skip_function(stream_, [](OPJ_OFF_T size, void* data) -> OPJ_OFF_T {
      auto* m = static_cast<Memory*>(data);
      if (size < 0) return -1;
      m->position = std::min<std::size_t>(
          m->bytes.size(), m->position + static_cast<std::size_t>(std::min<OPJ_OFF_T>(
                                             size, static_cast<OPJ_OFF_T>(m->bytes.size()))));
      return size;
    });
    opj_stream_set_user_data(stream_, &memory, nullptr);
    opj_stream_set_user_data_length(stream_, memory.bytes.size());
  }
  ~Stream() {
    if (stream_ != nullptr) opj_stream_destroy(stream_);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  opj_stream_t* get() const { return stream_; }

 private:
  opj_stream_t* stream_;
};

class Decompressor {
 public:
  explicit Decompressor(bool is_codestream)
      : codec_(opj_create_decompress(is_codestream ? OPJ_CODEC_J2K : OPJ_CODEC_JP2)) {
    if (codec_ != nullptr) opj_set_error_handler(codec_, OnError, this);
  }
  ~Decompressor() {
    if (codec_ != nullptr) opj_destroy_codec(codec_);
  }
  Decompressor(const Decompressor&) = delete;
  Decompressor& operator=(const Decompressor&) = delete;
  opj_codec_t* get() const { return codec_; }
  // What made a call fail: the file, or too little memory for it.
  absl::Status Failed(std::string_view what) const {
    if (out_of_memory_) return absl::ResourceExhaustedError("JPEG2000: not enough memory");
    return BadImage(kFormat, what);
  }

 private:
  // The library's errors are texts alone.
  static void OnError(const char* text, void* self) {
    for (const char* sign : {"memory", "alloc", "system limits"}) {
      if (std::strstr(text, sign) != nullptr) {
        static_cast<Decompressor*>(self)->out_of_memory_ = true;
      }
    }
  }

  opj_codec_t* codec_;
  bool out_of_memory_ = false;
};

struct Tile {
  OPJ_UINT32 index = 0;
  OPJ_UINT32 data_size = 0;
  OPJ_INT32 x0 = 0, y0 = 0, x1 = 0, y1 = 0;
  OPJ_UINT32 components = 0;
};

// The samples of one component of a tile, brought to `bits` bits.
class Component {
 public:
  Component(const opj_image_comp_t& component, const std::uint8_t* data, int bits)
      : data_(data),
        shift_(bits - static_cast<int>(component.prec)),
        offset_(component.sgnd != 0 ? 1U << (component.prec - 1) : 0),
        bytes_(SampleBytes(component)),
        dx_(component.dx),
        dy_(component.dy) {
    if (shift_ < 0) offset_ += 1U << (-shift_ - 1);
  }

  static std::uint32_t SampleBytes(const opj_image_comp_t& component) {
    const std::uint32_t bytes = (component.prec + 7) >> 3;
    return bytes == 3 ? 4 : bytes;
  }
  std::size_t PlaneBytes(std::uint32_t width, std::uint32_t height) const {
    return std::size_t{bytes_} * (width / dx_) * (height / dy_);
  }

  std::uint32_t At(std::uint32_t x, std::uint32_t y, std::uint32_t width) const {
    const std::uint8_t* row = data_ + std::size_t{bytes_} * (y / dy_) * (width / dx_);
    const std::size_t i = x / dx_;
    std::uint32_t value = 0;
    if (bytes_ == 1) {
      value = row[i];
    } else if (bytes_ == 2) {
      std::uint16_t wide;
      std::memcpy(&wide, row + 2 * i, 2);
      value = wide;
    } else {
      std::memcpy(&value, row + 4 * i, 4);
    }
    value += offset_;
    return shift_ < 0 ? value >> -shift_ : value << shift_;
  }

 private:
  const std::uint8_t* data_;
  int shift_;
  std::uint32_t offset_;
  std::uint32_t bytes_;
  std::uint32_t dx_;
  std::uint32_t dy_;
};

OPJ_COLOR_SPACE ColorSpaceOf(const opj_image_t& image, const Jp2Header& header,
                             int first_subsampled) {
  switch (header.color_space.value_or(0)) {
    case 12:
      return OPJ_CLRSPC_CMYK;
    case 16:
      return OPJ_CLRSPC_SRGB;
    case 17:
      return OPJ_CLRSPC_GRAY;
    case 18:
      return OPJ_CLRSPC_SYCC;
    case 24:
      return OPJ_CLRSPC_EYCC;
    default:
      break;
  }
  if (image.numcomps <= 2) return OPJ_CLRSPC_GRAY;
  return first_subsampled == 1 || first_subsampled == 2 ? OPJ_CLRSPC_SYCC : OPJ_CLRSPC_SRGB;
}

enum class Layout { kNone, kGrey, kGrey16, kPalette, kRgb, kYcc, kCmyk };

// Which combinations of mode, colour space and components Pillow unpacks, and as what.
Layout ChooseLayout(std::string_view mode, OPJ_COLOR_SPACE space, std::uint32_t n,
                    bool subsampled) {
  const bool is_color_mode = mode == "RGB" || mode == "RGBA";
  if (n >= 3) {
    if (mode == "CMYK") return space == OPJ_CLRSPC_CMYK && n == 4 ? Layout::kCmyk : Layout::kNone;
    if (!is_color_mode) return Layout::kNone;
    if (space == OPJ_CLRSPC_SRGB) return Layout::kRgb;
    if (space == OPJ_CLRSPC_SYCC) return Layout::kYcc;
    return space == OPJ_CLRSPC_GRAY && n == 4 && mode == "RGBA" ? Layout::kRgb : Layout::kNone;
  }
  if (subsampled) return Layout::kNone;
  if (space == OPJ_CLRSPC_GRAY) {
    if (is_color_mode) return Layout::kGrey;
    if (n == 1)
      return mode == "L" ? Layout::kGrey : (mode == "I;16" ? Layout::kGrey16 : Layout::kNone);
    return mode == "LA" ? Layout::kGrey : Layout::kNone;
  }
  if (n == 1 && mode == "P" && (space == OPJ_CLRSPC_SRGB || space == OPJ_CLRSPC_CMYK)) {
    return Layout::kPalette;
  }
  return n == 2 && mode == "PA" && space == OPJ_CLRSPC_SRGB ? Layout::kPalette : Layout::kNone;
}

void PutPixel(Layout layout, const std::uint32_t* samples, const Palette& palette,
              std::uint8_t* out) {
  std::uint8_t bytes[4];
  for (int i = 0; i < 4; ++i) bytes[i] = static_cast<std::uint8_t>(samples[i]);
  switch (layout) {
    case Layout::kGrey:
      std::memset(out, bytes[0], 3);
      break;
    case Layout::kGrey16:
      std::memset(out, ClipI16(samples[0] & 0xFFFF), 3);
      break;
    case Layout::kPalette:
      std::memcpy(out, palette.rgb[bytes[0]], 3);
      break;
    case Layout::kRgb:
      std::memcpy(out, bytes, 3);
      break;
    case Layout::kYcc:
      YCbCrToRgb(bytes, out);
      break;
    case Layout::kCmyk:
      CmykToRgb(bytes, 1, out);
      break;
    case Layout::kNone:
      break;
  }
}

void UnpackTile(const opj_image_t& image, const Tile& tile, const std::uint8_t* data, Layout layout,
                const Palette& palette, RgbImage& out) {
  const std::uint32_t width = static_cast<std::uint32_t>(tile.x1 - tile.x0);
  const std::uint32_t height = static_cast<std::uint32_t>(tile.y1 - tile.y0);
  std::vector<Component> components;
  for (std::uint32_t n = 0; n < image.numcomps; ++n) {
    components.emplace_back(image.comps[n], data, layout == Layout::kGrey16 ? 16 : 8);
    data += components.back().PlaneBytes(width, height);
  }
  const std::uint32_t first_x = static_cast<std::uint32_t>(tile.x0) - image.x0;
  const std::uint32_t first_y = static_cast<std::uint32_t>(tile.y0) - image.y0;
  for (std::uint32_t y = 0; y < height; ++y) {
    std::uint8_t* row = RgbRow(out, first_y + y) + std::size_t{first_x} * 3;
    for (std::uint32_t x = 0; x < width; ++x, row += 3) {
      std::uint32_t samples[4] = {0, 0, 0, 0};
      for (std::size_t n = 0; n < components.size(); ++n)
        samples[n] = components[n].At(x, y, width);
      PutPixel(layout, samples, palette, row);
    }
  }
}

// Bytes of a tile's samples; 0 if they pass the limit.
std::int64_t TileBytes(const opj_image_t& image, const Tile& tile) {
  std::int64_t per_pixel = 0;
  for (std::uint32_t n = 0; n < image.numcomps; ++n) {
    per_pixel += Component::SampleBytes(image.comps[n]);
  }
  const std::int64_t bytes = std::int64_t{tile.x1 - tile.x0} * (tile.y1 - tile.y0) * per_pixel;
  return bytes > kMaxTileBytes ? 0 : std::max<std::int64_t>(bytes, tile.data_size);
}

bool IsInside(const opj_image_t& image, const Tile& tile, const Jp2Header& header) {
  return tile.x0 >= 0 && tile.y0 >= 0 && tile.x0 < tile.x1 && tile.y0 < tile.y1 &&
         static_cast<OPJ_UINT32>(tile.x0) >= image.x0 &&
         static_cast<OPJ_UINT32>(tile.y0) >= image.y0 &&
         std::int64_t{tile.x1} - image.x0 <= header.width &&
         std::int64_t{tile.y1} - image.y0 <= header.height;
}

absl::Status DecodeTiles(const Decompressor& codec, opj_stream_t* stream, const opj_image_t& image,
                         Layout layout, const Jp2Header& header, RgbImage& out) {
  while (true) {
    Tile tile;
    OPJ_BOOL is_more = OPJ_FALSE;
    if (opj_read_tile_header(codec.get(), stream, &tile.index, &tile.data_size, &tile.x0, &tile.y0,
                             &tile.x1, &tile.y1, &tile.components, &is_more) == OPJ_FALSE) {
      return codec.Failed("a tile's header is broken or truncated");
    }
    if (is_more == OPJ_FALSE) return absl::OkStatus();
    if (!IsInside(image, tile, header) || tile.components != image.numcomps) {
      return BadImage(kFormat, "a tile is outside the image");
    }
    const std::int64_t bytes = TileBytes(image, tile);
    if (bytes == 0) return absl::ResourceExhaustedError("JPEG2000: a tile of more than 4 GiB");
    PixelBuffer data(static_cast<std::size_t>(bytes));
    std::memset(data.data(), 0, data.size());
    if (opj_decode_tile_data(codec.get(), tile.index, data.data(), static_cast<OPJ_UINT32>(bytes),
                             stream) == OPJ_FALSE) {
      return codec.Failed("a tile's data are broken or truncated");
    }
    UnpackTile(image, tile, data.data(), layout, header.palette, out);
  }
}

// A copy of the file as OpenJPEG 2.5.0 takes it where 2.5.4 takes the file itself, or nothing if it
// need not differ. 2.5.0 counts tiles in signed 32 bits and refuses tiles of 2^31 or more: they end
// where the picture does. Broken tables of tile-part lengths become comments.
std::string Repaired(std::string_view bytes, const Jp2Codestream& codestream) {
  std::string copy;
  for (std::size_t at = codestream.xsiz_offset; at <= codestream.xsiz_offset + 4; at += 4) {
    const std::uint32_t size = U32Be(bytes, at);
    const std::uint32_t first = U32Be(bytes, at + 24);
    if (U32Be(bytes, at + 16) <= INT32_MAX || size <= first) continue;
    if (copy.empty()) copy = std::string(bytes);
    for (std::size_t i = 0; i < 4; ++i) {
      copy[at + 16 + i] = static_cast<char>((size - first) >> (24 - 8 * i));
    }
  }
  constexpr char kComment = 0x64;
  for (const std::size_t at : codestream.broken_lengths) {
    if (copy.empty()) copy = std::string(bytes);
    copy[at] = kComment;
  }
  return copy;
}

absl::StatusOr<ImageHeader> ReadHeader(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const Jp2Header jp2, ReadJp2Header(bytes));
  ImageHeader header;
  header.format = std::string(kFormat);
  header.width = jp2.width;
  header.height = jp2.height;
  if (jp2.width <= kPillowMaxPixels && jp2.height <= kPillowMaxPixels) {
    SIGLIP_ASSIGN_OR_RETURN(const Jp2Codestream codestream,
                            ReadJp2Codestream(bytes, jp2.is_codestream, kMaxHeaderSegments));
    // OpenJPEG holds every component of a tile as int32, once more while it is transformed.
    header.working_set_bytes = header.width * header.height * 40 + (4 << 20) +
                               (codestream.is_whole ? codestream.structure_bytes : kUnknownBytes);
  }
  return header;
}

absl::StatusOr<RgbImage> Decode(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const Jp2Header header, ReadJp2Header(bytes));
  SIGLIP_ASSIGN_OR_RETURN(
      const Jp2Codestream codestream,
      ReadJp2Codestream(bytes, header.is_codestream, std::numeric_limits<std::int64_t>::max()));
  if (codestream.packets > kMaxPackets) {
    return BadImage(kFormat, absl::StrCat("more than ", kMaxPackets, " packets declared"));
  }
  const std::string repaired = Repaired(bytes, codestream);
  Memory memory{repaired.empty() ? bytes : std::string_view(repaired)};
  const Stream stream(memory);
  const Decompressor codec(header.is_codestream);
  if (stream.get() == nullptr || codec.get() == nullptr) {
    return absl::ResourceExhaustedError("JPEG2000: not enough memory");
  }
  opj_dparameters_t parameters;
  opj_set_default_decoder_parameters(&parameters);
  opj_image_t* raw_image = nullptr;
  if (opj_setup_decoder(codec.get(), &parameters) == OPJ_FALSE ||
      opj_read_header(stream.get(), codec.get(), &raw_image) == OPJ_FALSE) {
    return codec.Failed("broken header");
  }
  const std::unique_ptr<opj_image_t, ImageDeleter> image(raw_image);
  if (image->numcomps < 1 || image->numcomps > 4) {
    return BadImage(kFormat, absl::StrCat(image->numcomps, " components"));
  }
  int first_subsampled = -1;
  for (OPJ_UINT32 n = image->numcomps; n-- > 0;) {
    const opj_image_comp_t& component = image->comps[n];
    if (component.dx == 0 || component.dy == 0 || component.prec == 0 || component.prec > 32) {
      return BadImage(kFormat, "unsupported components");
    }
    if (component.dx != 1 || component.dy != 1) first_subsampled = static_cast<int>(n);
  }
  const Layout layout = ChooseLayout(header.mode, ColorSpaceOf(*image, header, first_subsampled),
                                     image->numcomps, first_subsampled >= 0);
  if (layout == Layout::kNone) return BadImage(kFormat, "unsupported colour space");
  RgbImage out = AllocateRgb(header.width, header.height);
  std::memset(out.pixels.data(), 0, out.pixels.size());
  SIGLIP_RETURN_IF_ERROR(DecodeTiles(codec, stream.get(), *image, layout, header, out));
  if (opj_end_decompress(codec.get(), stream.get()) == OPJ_FALSE) {
    return codec.Failed("broken or truncated at its end");
  }
  return out;
}

}  // namespace

const Codec kJp2Codec = {kFormat, IsJp2, ReadHeader, Decode};

}  // namespace siglip
