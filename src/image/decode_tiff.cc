// TIFF: the first picture. Without compression the samples are read here, as Pillow's raw decoder
// does; everything else goes through libtiff the way Pillow's TiffDecode.c drives it.

#include "image/byte_reader.h"
#include "image/codec.h"
#include "image/lab_to_rgb.h"
#include "image/raw_modes.h"
#include "image/tiff_directory.h"

#include "base/status_macros.h"

#include "absl/strings/str_cat.h"

#include <algorithm>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <tiffio.h>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "TIFF";

// A tile may be far larger than its picture; libtiff and we allocate it whole.
constexpr std::int64_t kMaxBlockBytes = std::int64_t{1} << 30;

int Bands(std::string_view mode) {
  if (mode == "LA" || mode == "PA" || mode == "La") return 2;
  if (mode == "RGB" || mode == "YCbCr" || mode == "LAB") return 3;
  return mode == "RGBA" || mode == "CMYK" ? 4 : 1;
}

// Where decoded rows go: straight to RGB, or, for pictures stored plane by plane and for LAB, to 4
// bytes a pixel first.
class Target {
 public:
  Target(const TiffLayout& layout, bool needs_planes)
      : layout_(layout), image_(AllocateRgb(layout.width, layout.height)) {
    FillWithSampleZero();
    if (needs_planes) {
      planes_ = PixelBuffer(static_cast<std::size_t>(layout.width * layout.height) * 4);
      std::memset(planes_.data(), 0, planes_.size());
    }
  }

  std::uint8_t* Rgb(std::int64_t x, std::int64_t y) { return RgbRow(image_, y) + x * 3; }
  std::uint8_t* Planes(std::int64_t x, std::int64_t y) {
    return planes_.data() + (y * layout_.width + x) * 4;
  }

  // Bytes of one plane, `step` apart, into plane `band`.
  void PutPlane(const std::uint8_t* in, std::int64_t step, std::int64_t count, int band,
                std::int64_t x, std::int64_t y) {
    std::uint8_t* out = Planes(x, y) + band;
    for (std::int64_t i = 0; i < count; ++i) out[4 * i] = in[step * i];
  }

  // LAB rows have their signed channels offset, as Pillow stores them.
  void PutLab(const std::uint8_t* in, std::int64_t count, std::int64_t x, std::int64_t y) {
    std::uint8_t* out = Planes(x, y);
    for (std::int64_t i = 0; i < count; ++i, out += 4, in += 3) {
      out[0] = in[0];
      out[1] = in[1] ^ 128;
      out[2] = in[2] ^ 128;
    }
  }

  absl::StatusOr<RgbImage> Finish() {
    if (!planes_.empty()) SIGLIP_RETURN_IF_ERROR(ConvertPlanes());
    return std::move(image_);
  }

  void DivideOutAlpha() {
    const RawMode* raw = FindRawMode("RGBA", "RGBa");
    for (std::int64_t i = 0; i < layout_.width * layout_.height; ++i) {
      std::uint8_t rgb[3];
      raw->to_rgb(planes_.data() + 4 * i, 1, layout_.palette, rgb);
      std::memcpy(planes_.data() + 4 * i, rgb, 3);
    }
  }

 private:
  // Strips and tiles may leave parts of the picture out.
  void FillWithSampleZero() {
    std::uint8_t pixel[3] = {0, 0, 0};
    const std::uint8_t zeros[4] = {0, 0, 0, 0};
    if (layout_.mode == "P" || layout_.mode == "PA") std::memcpy(pixel, layout_.palette.rgb[0], 3);
    if (layout_.mode == "CMYK") CmykToRgb(zeros, 1, pixel);
    if (layout_.mode == "YCbCr") YCbCrToRgb(zeros, pixel);
    for (std::size_t i = 0; i < image_.pixels.size(); i += 3) {
      std::memcpy(image_.pixels.data() + i, pixel, 3);
    }
  }

  absl::Status ConvertPlanes() {
    const std::size_t pixels = image_.pixels.size() / 3;
    std::uint8_t* out = image_.pixels.data();
    const std::uint8_t* in = planes_.data();
    if (layout_.mode == "LAB") return LabToRgb(in, pixels, out);
    if (layout_.mode == "CMYK") {
      CmykToRgb(in, pixels, out);
      return absl::OkStatus();
    }
    if (layout_.mode == "RGB" || layout_.mode == "RGBA") {
      RgbxToRgb(in, pixels, out);
      return absl::OkStatus();
    }
    for (std::size_t i = 0; i < pixels; ++i, in += 4, out += 3) {
      if (layout_.mode == "YCbCr") {
        YCbCrToRgb(in, out);
      } else if (layout_.mode == "PA") {
        std::memcpy(out, layout_.palette.rgb[in[0]], 3);
      } else {
        std::memset(out, in[0], 3);
      }
    }
    return absl::OkStatus();
  }

  const TiffLayout& layout_;
  RgbImage image_;
  PixelBuffer planes_;
};

// The plane that a letter of a raw mode names within a mode; -1 if Pillow has no such unpacker.
int PlaneOf(std::string_view mode, char letter) {
  const std::string_view letters = mode == "RGB"    ? "RGB"
                                   : mode == "RGBA" ? "RGBA"
                                   : mode == "CMYK" ? "CMYK"
                                   : mode == "LAB"  ? "LAB"
                                                    : "";
  const std::size_t at = letters.find(letter);
  return at == std::string_view::npos ? -1 : static_cast<int>(at);
}

struct RawTile {
  std::int64_t x0, y0, x1, y1, offset, stride;
  char plane;  // '\0' if all samples lie together
};

// Where the tiles of a file without compression lie. An offset list may be as long as the file, go
// round the picture again and again, and jump between its parts; of each part the tile with the
// largest offset is read last and covers the others.
class TileGrid {
 public:
  static absl::StatusOr<TileGrid> Place(const TiffLayout& layout) {
    TileGrid grid(layout);
    const TiffIntegers& offsets = layout.offsets;
    // Where every tile covers the picture, the last one alone counts.
    const bool is_one = layout.tile_width == layout.width && layout.tile_height == layout.height &&
                        !layout.is_planar;
    const std::size_t first = is_one ? offsets.size() - 1 : 0;
    const std::size_t count = offsets.size() - first;
    const std::size_t layers = layout.is_planar ? layout.raw.size() : 1;
    if (layout.is_planar && (count - 1) / grid.cells_ >= layers) {
      return BadImage(kFormat, "more planes than samples");
    }
    grid.largest_.assign(std::min(count, grid.cells_ * layers), kNone);
    for (std::size_t i = 0; i < count; ++i) {
      grid.Add(i % grid.largest_.size(), offsets[first + i]);
    }
    if (grid.negative_is_read()) return BadImage(kFormat, "a tile's offset is negative");
    return grid;
  }

  std::size_t size() const { return largest_.size(); }
  // The tile that Pillow decodes last: it does not look at errors of the others.
  std::size_t last() const { return last_; }

  RawTile operator[](std::size_t i) const {
    const std::int64_t cell = static_cast<std::int64_t>(i % cells_);
    const std::int64_t x = cell % columns_ * layout_.tile_width;
    const std::int64_t y = cell / columns_ * layout_.tile_height;
    double stride = 0;
    if (x + layout_.tile_width > layout_.width) {
      stride =
          static_cast<double>(layout_.tile_width) * static_cast<double>(layout_.bits_per_pixel) / 8;
    }
    if (layout_.is_planar) stride /= layout_.bands_in_key;
    return {.x0 = x,
            .y0 = y,
            .x1 = std::min(x + layout_.tile_width, layout_.width),
            .y1 = std::min(y + layout_.tile_height, layout_.height),
            .offset = largest_[i],
            .stride = static_cast<std::int64_t>(stride),
            .plane = layout_.is_planar ? layout_.raw[i / cells_] : '\0'};
  }

 private:
  static constexpr std::int64_t kNone = INT64_MIN;

  explicit TileGrid(const TiffLayout& layout)
      : layout_(layout),
        columns_((layout.width - 1) / layout.tile_width + 1),
        cells_(
            static_cast<std::size_t>(columns_ * ((layout.height - 1) / layout.tile_height + 1))) {}

  void Add(std::size_t i, std::int64_t offset) {
    if (offset >= largest_offset_) {
      largest_offset_ = offset;
      last_ = i;
    }
    largest_[i] = std::max(largest_[i], offset);
    if (offset < 0) {
      has_negatives_of_two_ = has_negatives_of_two_ || (negative_ && *negative_ != i);
      negative_ = i;
    } else if (offset < least_offset_) {
      least_offset_ = offset;
      least_ = i;
    }
  }

  // In the order of their offsets, a tile followed by another of the same place is not read.
  bool negative_is_read() const {
    return negative_ && (has_negatives_of_two_ || least_ != negative_);
  }

  const TiffLayout& layout_;
  std::int64_t columns_;
  std::size_t cells_;  // of one plane
  std::vector<std::int64_t> largest_;
  std::int64_t largest_offset_ = kNone;
  std::size_t last_ = 0;
  std::optional<std::size_t> negative_;
  bool has_negatives_of_two_ = false;
  std::int64_t least_offset_ = INT64_MAX;
  std::optional<std::size_t> least_;
};

// Most bytes that a TileGrid takes.
std::int64_t GridBytes(const TiffLayout& layout) {
  const auto parts = [](std::int64_t length, std::int64_t tile) { return (length - 1) / tile + 1; };
  const std::int64_t cells = parts(layout.width, layout.tile_width) *
                             parts(layout.height, layout.tile_height) *
                             (layout.is_planar ? Bands(layout.mode) : 1);
  return std::min(cells, static_cast<std::int64_t>(layout.offsets.size())) *
         std::int64_t{sizeof(std::int64_t)};
}

absl::Status DecodeRawTile(std::string_view bytes, const TiffLayout& layout, const RawTile& tile,
                           bool is_last, Target& target) {
  const std::int64_t width = tile.x1 - tile.x0;
  const int plane = tile.plane != '\0' ? PlaneOf(layout.mode, tile.plane) : -1;
  const std::string_view name =
      tile.plane != '\0' ? std::string_view(&tile.plane, 1) : std::string_view(layout.raw);
  const RawMode* raw =
      plane >= 0 || layout.mode == "LAB" ? nullptr : FindRawMode(layout.mode, name);
  if (plane < 0 && raw == nullptr && (layout.mode != "LAB" || layout.is_planar)) {
    return BadImage(kFormat, absl::StrCat("unsupported layout ", std::string(name)));
  }
  const std::int64_t row_bytes =
      plane >= 0 ? width : (raw != nullptr ? RawRowBytes(*raw, width) : width * 3);
  const std::int64_t stride = tile.stride == 0 ? row_bytes : tile.stride;
  const std::int64_t rows = tile.y1 - tile.y0;
  const std::int64_t size = static_cast<std::int64_t>(bytes.size());
  if (stride > INT32_MAX) return BadImage(kFormat, "rows are too long");
  if (tile.offset < 0 || tile.offset >= size) return BadImage(kFormat, "truncated image data");
  if (stride < row_bytes) {
    return is_last ? BadImage(kFormat, "rows are shorter than the samples need") : absl::OkStatus();
  }
  if (size - tile.offset < row_bytes || (size - tile.offset - row_bytes) / stride < rows - 1) {
    return BadImage(kFormat, "truncated image data");
  }
  const auto* in = reinterpret_cast<const std::uint8_t*>(bytes.data()) + tile.offset;
  for (std::int64_t y = tile.y0; y < tile.y1; ++y, in += stride) {
    if (plane >= 0) {
      target.PutPlane(in, 1, width, plane, tile.x0, y);
    } else if (raw == nullptr) {
      target.PutLab(in, width, tile.x0, y);
    } else {
      raw->to_rgb(in, static_cast<std::size_t>(width), layout.palette, target.Rgb(tile.x0, y));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<RgbImage> DecodeRaw(std::string_view bytes, const TiffLayout& layout) {
  SIGLIP_ASSIGN_OR_RETURN(const TileGrid tiles, TileGrid::Place(layout));
  Target target(layout, (layout.is_planar && Bands(layout.mode) > 1) || layout.mode == "LAB");
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    SIGLIP_RETURN_IF_ERROR(DecodeRawTile(bytes, layout, tiles[i], i == tiles.last(), target));
  }
  return target.Finish();
}

// --- compressed files ---

// The file in memory, and libtiff's first complaint.
struct MemoryFile {
  std::string_view bytes;
  std::uint64_t position = 0;
  std::string message;
};

MemoryFile& FileOf(thandle_t handle) { return *static_cast<MemoryFile*>(handle); }

tmsize_t ReadProc(thandle_t handle, void* out, tmsize_t size) {
  MemoryFile& file = FileOf(handle);
  if (file.position > file.bytes.size() || size < 0) return 0;
  const std::size_t count = std::min(static_cast<std::size_t>(size),
                                     file.bytes.size() - static_cast<std::size_t>(file.position));
  std::memcpy(out, file.bytes.data() + file.position, count);
  file.position += count;
  return static_cast<tmsize_t>(count);
}

toff_t SeekProc(thandle_t handle, toff_t offset, int whence) {
  MemoryFile& file = FileOf(handle);
  const std::uint64_t base = whence == SEEK_SET   ? 0
                             : whence == SEEK_CUR ? file.position
                                                  : file.bytes.size();
  file.position = base + offset;
  return file.position;
}

int MapProc(thandle_t handle, void** base, toff_t* size) {
  MemoryFile& file = FileOf(handle);
  *base = const_cast<char*>(file.bytes.data());
  *size = file.bytes.size();
  return 1;
}

int OnError(TIFF*, void* user_data, const char*, const char* format, va_list arguments) {
  auto& message = static_cast<MemoryFile*>(user_data)->message;
  if (message.empty()) {
    char text[256];
    std::vsnprintf(text, sizeof(text), format, arguments);
    message = text;
  }
  return 1;
}

struct TiffDeleter {
  void operator()(TIFF* tiff) const { TIFFClose(tiff); }
};
using TiffHandle = std::unique_ptr<TIFF, TiffDeleter>;

struct OptionsDeleter {
  void operator()(TIFFOpenOptions* options) const { TIFFOpenOptionsFree(options); }
};

TiffHandle OpenTiff(MemoryFile& file) {
  const std::unique_ptr<TIFFOpenOptions, OptionsDeleter> options(TIFFOpenOptionsAlloc());
  if (options == nullptr) return nullptr;
  TIFFOpenOptionsSetMaxSingleMemAlloc(options.get(), kMaxBlockBytes);
  TIFFOpenOptionsSetErrorHandlerExtR(options.get(), OnError, &file);
  TIFFOpenOptionsSetWarningHandlerExtR(
      options.get(), [](TIFF*, void*, const char*, const char*, va_list) { return 1; }, nullptr);
  return TiffHandle(TIFFClientOpenExt(
      "memory", "rC", &file, ReadProc, [](thandle_t, void*, tmsize_t) -> tmsize_t { return 0; },
      SeekProc, [](thandle_t) { return 0; },
      [](thandle_t handle) -> toff_t { return FileOf(handle).bytes.size(); }, MapProc,
      [](thandle_t, void*, toff_t) {}, options.get()));
}

absl::Status Broken(const MemoryFile& file) {
  return BadImage(kFormat,
                  file.message.empty() ? "broken or unsupported image data" : file.message);
}

// How rows of libtiff's output are put into the target: whole pixels, or one plane after another.
struct Unpacker {
  const RawMode* raw = nullptr;  // null: LAB, or planes
  int planes = 1;
  int plane_bytes = 1;    // per sample, where planes > 1
  std::int64_t bits = 0;  // per pixel
};

void PutRow(const Unpacker& unpacker, const TiffLayout& layout, const std::uint8_t* in,
            std::int64_t x, std::int64_t y, std::int64_t width, int plane, Target& target) {
  if (unpacker.planes > 1) {
    const int high =
        unpacker.plane_bytes == 2 && U16Le(std::string_view("\1\0", 2), 0) == 1 ? 1 : 0;
    target.PutPlane(in + high, unpacker.plane_bytes, width, plane, x, y);
  } else if (unpacker.raw == nullptr) {
    target.PutLab(in, width, x, y);
  } else {
    unpacker.raw->to_rgb(in, static_cast<std::size_t>(width), layout.palette, target.Rgb(x, y));
  }
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using ZeroedBuffer = std::unique_ptr<std::uint8_t[], Free>;

// A block may be declared far larger than its data: what is never written is never made resident.
ZeroedBuffer AllocateZeroed(std::int64_t bytes) {
  ZeroedBuffer buffer(static_cast<std::uint8_t*>(
      std::calloc(static_cast<std::size_t>(bytes) + PixelBuffer::kPadding, 1)));
  if (buffer == nullptr) throw std::bad_alloc();
  return buffer;
}

absl::Status DecodeTiles(TIFF* tiff, const MemoryFile& file, const TiffLayout& layout,
                         const Unpacker& unpacker, Target& target) {
  const std::int64_t tile_bytes = TIFFTileSize(tiff);
  const std::int64_t row_bytes = TIFFTileRowSize(tiff);
  std::uint32_t tile_width = 0;
  std::uint32_t tile_height = 0;
  TIFFGetField(tiff, TIFFTAG_TILEWIDTH, &tile_width);
  TIFFGetField(tiff, TIFFTAG_TILELENGTH, &tile_height);
  const std::int64_t unpacked = (tile_width * unpacker.bits / unpacker.planes + 7) / 8;
  if (tile_bytes <= 0 || row_bytes <= 0 || row_bytes > tile_bytes || tile_width == 0 ||
      tile_height == 0 || tile_bytes != unpacked * tile_height || unpacked > row_bytes) {
    return Broken(file);
  }
  if (tile_bytes > kMaxBlockBytes) {
    return absl::ResourceExhaustedError(absl::StrCat("TIFF: a tile of ", tile_bytes, " bytes"));
  }
  const ZeroedBuffer buffer = AllocateZeroed(tile_bytes);
  for (std::int64_t y = 0; y < layout.height; y += tile_height) {
    for (int plane = 0; plane < unpacker.planes; ++plane) {
      for (std::int64_t x = 0; x < layout.width; x += tile_width) {
        if (TIFFReadTile(tiff, buffer.get(), static_cast<std::uint32_t>(x),
                         static_cast<std::uint32_t>(y), 0,
                         static_cast<std::uint16_t>(plane)) == -1) {
          return Broken(file);
        }
        const std::int64_t width = std::min<std::int64_t>(tile_width, layout.width - x);
        const std::int64_t height = std::min<std::int64_t>(tile_height, layout.height - y);
        for (std::int64_t row = 0; row < height; ++row) {
          PutRow(unpacker, layout, buffer.get() + row * row_bytes, x, y + row, width, plane,
                 target);
        }
      }
    }
  }
  return absl::OkStatus();
}

absl::Status DecodeStrips(TIFF* tiff, const MemoryFile& file, const TiffLayout& layout,
                          const Unpacker& unpacker, Target& target) {
  std::uint32_t rows_per_strip = 0;
  if (TIFFGetField(tiff, TIFFTAG_ROWSPERSTRIP, &rows_per_strip) != 1 ||
      rows_per_strip == UINT32_MAX) {
    rows_per_strip = static_cast<std::uint32_t>(layout.height);
  }
  const std::int64_t strip_bytes = TIFFStripSize(tiff);
  const std::int64_t row_bytes = TIFFScanlineSize(tiff);
  const std::int64_t unpacked = (layout.width * unpacker.bits / unpacker.planes + 7) / 8;
  if (strip_bytes <= 0 || rows_per_strip == 0 || rows_per_strip > INT32_MAX ||
      strip_bytes > unpacked * rows_per_strip || row_bytes == 0 || unpacked > row_bytes) {
    return Broken(file);
  }
  if (strip_bytes > kMaxBlockBytes) {
    return absl::ResourceExhaustedError(absl::StrCat("TIFF: a strip of ", strip_bytes, " bytes"));
  }
  const std::int64_t rows_in_buffer = std::min<std::int64_t>(rows_per_strip, layout.height);
  const ZeroedBuffer buffer = AllocateZeroed(std::max(strip_bytes, rows_in_buffer * row_bytes));
  for (std::int64_t y = 0; y < layout.height; y += rows_per_strip) {
    for (int plane = 0; plane < unpacker.planes; ++plane) {
      const std::uint32_t strip =
          TIFFComputeStrip(tiff, static_cast<std::uint32_t>(y), static_cast<std::uint16_t>(plane));
      if (TIFFReadEncodedStrip(tiff, strip, buffer.get(), strip_bytes) == -1) return Broken(file);
      const std::int64_t rows = std::min<std::int64_t>(rows_per_strip, layout.height - y);
      for (std::int64_t row = 0; row < rows; ++row) {
        PutRow(unpacker, layout, buffer.get() + row * row_bytes, 0, y + row, layout.width, plane,
               target);
      }
    }
  }
  return absl::OkStatus();
}

// libtiff 4.7 refuses what is smaller than a block of its chroma; 4.5 reads on past the picture.
absl::Status CheckSubsampling(TIFF* tiff, const TiffLayout& layout) {
  std::uint16_t columns = 1;
  std::uint16_t rows = 1;
  TIFFGetFieldDefaulted(tiff, TIFFTAG_YCBCRSUBSAMPLING, &columns, &rows);
  if (layout.width >= columns && layout.height >= rows) return absl::OkStatus();
  return BadImage(kFormat, absl::StrCat("YCbCr subsampling ", columns, "x", rows,
                                        " of a picture of ", layout.width, "x", layout.height));
}

// Subsampled YCbCr: libtiff's own conversion to RGBA.
absl::Status DecodeAsRgba(TIFF* tiff, const MemoryFile& file, const TiffLayout& layout,
                          Target& target) {
  std::uint32_t block = 0;
  const int has_block = TIFFIsTiled(tiff)
                            ? TIFFGetFieldDefaulted(tiff, TIFFTAG_TILELENGTH, &block)
                            : TIFFGetFieldDefaulted(tiff, TIFFTAG_ROWSPERSTRIP, &block);
  if (has_block != 1 || block == UINT32_MAX) block = static_cast<std::uint32_t>(layout.height);
  char message[1024] = "";
  TIFFRGBAImage rgba;
  if (layout.raw != "RGBX" || block == 0 || TIFFRGBAImageOK(tiff, message) == 0 ||
      TIFFRGBAImageBegin(&rgba, tiff, 0, message) == 0) {
    return BadImage(kFormat, message[0] != '\0' ? message : "unsupported image data");
  }
  const std::unique_ptr<TIFFRGBAImage, void (*)(TIFFRGBAImage*)> end(&rgba, TIFFRGBAImageEnd);
  // Pillow's buffer has all rows that a strip declares.
  if (block > std::uint32_t{INT32_MAX} / rgba.width / 4) {
    return BadImage(kFormat, absl::StrCat("a strip of ", block, " rows"));
  }
  rgba.orientation = ORIENTATION_TOPLEFT;
  rgba.req_orientation = ORIENTATION_TOPLEFT;
  rgba.col_offset = 0;
  block = std::min(block, static_cast<std::uint32_t>(layout.height));
  std::vector<std::uint32_t> raster(static_cast<std::size_t>(rgba.width) * block);
  for (std::int64_t y = 0; y < layout.height; y += block) {
    const std::int64_t rows = std::min<std::int64_t>(block, layout.height - y);
    rgba.row_offset = static_cast<int>(y);
    if (TIFFRGBAImageGet(&rgba, raster.data(), rgba.width, static_cast<std::uint32_t>(rows)) == 0) {
      return Broken(file);
    }
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::uint32_t* in = raster.data() + static_cast<std::size_t>(row) * rgba.width;
      std::uint8_t* out = target.Rgb(0, y + row);
      for (std::int64_t x = 0; x < layout.width; ++x, out += 3) {
        out[0] = static_cast<std::uint8_t>(TIFFGetR(in[x]));
        out[1] = static_cast<std::uint8_t>(TIFFGetG(in[x]));
        out[2] = static_cast<std::uint8_t>(TIFFGetB(in[x]));
      }
    }
  }
  return absl::OkStatus();
}

// True if the stored colours of a planar RGBA picture are multiplied by alpha (or it does not say).
bool HasAssociatedAlpha(TIFF* tiff) {
  std::uint16_t count = 0;
  std::uint16_t* kinds = nullptr;
  TIFFGetFieldDefaulted(tiff, TIFFTAG_EXTRASAMPLES, &count, &kinds);
  return count >= 1 && kinds != nullptr &&
         (kinds[0] == EXTRASAMPLE_UNSPECIFIED || kinds[0] == EXTRASAMPLE_ASSOCALPHA);
}

absl::StatusOr<Unpacker> ChooseUnpacker(TIFF* tiff, const MemoryFile& file,
                                        const TiffLayout& layout, std::uint16_t planar) {
  Unpacker unpacker;
  unpacker.raw = FindRawMode(layout.mode, layout.raw);
  if (layout.mode == "LAB" || layout.mode == "La") {
    unpacker.bits = layout.mode == "LAB" ? 24 : 16;
  } else if (unpacker.raw == nullptr) {
    return BadImage(kFormat, absl::StrCat("unsupported layout ", layout.raw));
  } else {
    unpacker.bits = unpacker.raw->bits;
  }
  if (planar == PLANARCONFIG_SEPARATE && Bands(layout.mode) > 1) {
    std::uint16_t sample_bits = 8;
    TIFFGetFieldDefaulted(tiff, TIFFTAG_BITSPERSAMPLE, &sample_bits);
    if (sample_bits != 8 && sample_bits != 16) return Broken(file);
    unpacker.planes = Bands(layout.mode);
    unpacker.plane_bytes = sample_bits / 8;
  }
  return unpacker;
}

absl::StatusOr<RgbImage> DecodeCompressed(std::string_view bytes, const TiffLayout& layout) {
  if (layout.has_odd_counts) return BadImage(kFormat, "offsets and sizes of unlike numbers");
  MemoryFile file;
  file.bytes = bytes;
  std::string repaired;
  if (!layout.repairs.empty()) {
    repaired.assign(bytes);
    for (const TiffRepair& repair : layout.repairs) {
      repaired.replace(repair.at, repair.bytes.size(), repair.bytes);
    }
    file.bytes = repaired;
  }
  const TiffHandle tiff = OpenTiff(file);
  if (tiff == nullptr || TIFFSetSubDirectory(tiff.get(), layout.directory_offset) == 0) {
    return Broken(file);
  }
  // The directory is read; image data may lie upon it.
  for (const TiffRepair& repair : layout.repairs) {
    repaired.replace(repair.at, repair.bytes.size(), bytes.substr(repair.at, repair.bytes.size()));
  }
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  TIFFGetField(tiff.get(), TIFFTAG_IMAGEWIDTH, &width);
  TIFFGetField(tiff.get(), TIFFTAG_IMAGELENGTH, &height);
  if (width != layout.width || height != layout.height) {
    return BadImage(kFormat, absl::StrCat("libtiff reads the size ", width, "x", height));
  }
  std::uint16_t photometric = 0;
  std::uint16_t compression = 0;
  std::uint16_t planar = 0;
  TIFFGetField(tiff.get(), TIFFTAG_PHOTOMETRIC, &photometric);
  TIFFGetField(tiff.get(), TIFFTAG_COMPRESSION, &compression);
  TIFFGetFieldDefaulted(tiff.get(), TIFFTAG_PLANARCONFIG, &planar);
  // Pillow's libtiff inflates with zlib; libdeflate's verdicts on damaged data differ.
  if (compression == COMPRESSION_ADOBE_DEFLATE || compression == COMPRESSION_DEFLATE) {
    TIFFSetField(tiff.get(), TIFFTAG_DEFLATE_SUBCODEC, DEFLATE_SUBCODEC_ZLIB);
  }
  bool as_rgba = photometric == PHOTOMETRIC_YCBCR;
  if (as_rgba && compression == COMPRESSION_JPEG && planar == PLANARCONFIG_CONTIG) {
    TIFFSetField(tiff.get(), TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
    as_rgba = false;
  }
  if (as_rgba) {
    SIGLIP_RETURN_IF_ERROR(CheckSubsampling(tiff.get(), layout));
    Target target(layout, false);
    SIGLIP_RETURN_IF_ERROR(DecodeAsRgba(tiff.get(), file, layout, target));
    return target.Finish();
  }
  SIGLIP_ASSIGN_OR_RETURN(const Unpacker unpacker,
                          ChooseUnpacker(tiff.get(), file, layout, planar));
  Target target(layout, unpacker.planes > 1 || layout.mode == "LAB");
  SIGLIP_RETURN_IF_ERROR(TIFFIsTiled(tiff.get()) != 0
                             ? DecodeTiles(tiff.get(), file, layout, unpacker, target)
                             : DecodeStrips(tiff.get(), file, layout, unpacker, target));
  if (unpacker.planes > 3 && layout.mode == "RGBA" && HasAssociatedAlpha(tiff.get())) {
    target.DivideOutAlpha();
  }
  return target.Finish();
}

// --- both ---

// Applies a TIFF orientation: output pixel (x, y) comes from stored pixel (sx, sy).
RgbImage Oriented(RgbImage image, int orientation) {
  if (orientation <= 1) return image;
  const bool swaps = orientation >= 5;
  RgbImage out =
      swaps ? AllocateRgb(image.height, image.width) : AllocateRgb(image.width, image.height);
  const bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  for (int y = 0; y < out.height; ++y) {
    std::uint8_t* row = RgbRow(out, y);
    for (int x = 0; x < out.width; ++x, row += 3) {
      int sx = swaps ? y : x;
      int sy = swaps ? x : y;
      if (flip_x) sx = image.width - 1 - sx;
      if (flip_y) sy = image.height - 1 - sy;
      std::memcpy(row, RgbRow(image, sy) + 3 * sx, 3);
    }
  }
  return out;
}

// A tile of a compressed file, which may be far larger than its picture.
std::int64_t TileBytes(const TiffLayout& layout) {
  const double bits = static_cast<double>(layout.tile_width) *
                      static_cast<double>(layout.tile_height) *
                      static_cast<double>(layout.bits_per_pixel);
  return static_cast<std::int64_t>(std::clamp(bits / 8, 0.0, static_cast<double>(kMaxBlockBytes)));
}

absl::StatusOr<ImageHeader> ReadHeader(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const TiffLayout layout, ReadTiffLayout(bytes));
  ImageHeader header;
  header.format = std::string(kFormat);
  header.width = layout.orientation >= 5 ? layout.height : layout.width;
  header.height = layout.orientation >= 5 ? layout.width : layout.height;
  if (layout.width <= kPillowMaxPixels && layout.height <= kPillowMaxPixels) {
    // Stored samples of a strip or tile (8 bytes a pixel at most), planes, RGB and its rotated
    // copy.
    header.working_set_bytes = layout.width * layout.height * 18 + (4 << 20) + layout.list_bytes +
                               (layout.uses_libtiff ? TileBytes(layout) : GridBytes(layout));
  }
  return header;
}

absl::StatusOr<RgbImage> Decode(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const TiffLayout layout, ReadTiffLayout(bytes));
  if (layout.mode == "La") return BadImage(kFormat, "grey with associated alpha");
  SIGLIP_ASSIGN_OR_RETURN(RgbImage image, layout.uses_libtiff ? DecodeCompressed(bytes, layout)
                                                              : DecodeRaw(bytes, layout));
  return Oriented(std::move(image), layout.orientation);
}

}  // namespace

const Codec kTiffCodec = {kFormat, IsTiff, ReadHeader, Decode};

}  // namespace siglip
