// BMP as Pillow's BmpImagePlugin.py reads it: all header kinds, 1 to 32 bits, bit fields, RLE4 and
// RLE8.

#include "image/byte_reader.h"
#include "image/codec.h"
#include "image/raw_modes.h"

#include "base/status_macros.h"

#include "absl/strings/str_cat.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "BMP";

struct Bmp {
  std::int64_t width = 0;
  std::int64_t height = 0;
  int bits = 0;
  std::uint32_t compression = 0;
  std::int64_t colors = 0;
  int palette_entry_bytes = 4;
  bool bottom_up = true;
  std::uint32_t mask[4] = {0, 0, 0, 0};
  std::string_view mode;
  std::string_view raw;
  Palette palette;
  std::size_t data_position = 0;
};

enum : std::uint32_t { kRaw = 0, kRle8 = 1, kRle4 = 2, kBitFields = 3 };

absl::Status Cut() { return BadImage(kFormat, "truncated header"); }

// What BITFIELDS masks Pillow knows.
struct MaskLayout {
  int bits;
  std::uint32_t red, green, blue, alpha;
  std::string_view raw;
};
constexpr MaskLayout kMaskLayouts[] = {
    {32, 0xFF0000, 0xFF00, 0xFF, 0x0, "BGRX"},
    {32, 0xFF000000, 0xFF0000, 0xFF00, 0x0, "XBGR"},
    {32, 0xFF000000, 0xFF00, 0xFF, 0x0, "BGXR"},
    {32, 0xFF000000, 0xFF0000, 0xFF00, 0xFF, "ABGR"},
    {32, 0xFF, 0xFF00, 0xFF0000, 0xFF000000, "RGBA"},
    {32, 0xFF0000, 0xFF00, 0xFF, 0xFF000000, "BGRA"},
    {32, 0xFF000000, 0xFF00, 0xFF, 0xFF0000, "BGAR"},
    {32, 0x0, 0x0, 0x0, 0x0, "BGRA"},
    {24, 0xFF0000, 0xFF00, 0xFF, 0x0, "BGR"},
    {16, 0xF800, 0x7E0, 0x1F, 0x0, "BGR;16"},
    {16, 0x7C00, 0x3E0, 0x1F, 0x0, "BGR;15"},
};

absl::Status ReadMasks(std::string_view header, ByteReader& reader, Bmp& bmp) {
  if (header.size() >= 48) {
    const std::size_t count = header.size() >= 52 ? 4 : 3;
    for (std::size_t i = 0; i < count; ++i) bmp.mask[i] = U32Le(header, 36 + 4 * i);
    return absl::OkStatus();
  }
  for (std::size_t i = 0; i < 3; ++i) {
    const std::optional<std::string_view> mask = reader.ReadExactly(4);
    if (!mask) return Cut();
    bmp.mask[i] = U32Le(*mask, 0);
  }
  return absl::OkStatus();
}

absl::Status ReadInfo(ByteReader& reader, Bmp& bmp, std::uint32_t* header_size) {
  const std::optional<std::string_view> size = reader.ReadExactly(4);
  if (!size) return Cut();
  *header_size = U32Le(*size, 0);
  const std::optional<std::string_view> s =
      reader.ReadExactly(*header_size < 4 ? 0 : *header_size - 4);
  if (!s) return Cut();
  switch (*header_size) {
    case 12:
      bmp.width = U16Le(*s, 0);
      bmp.height = U16Le(*s, 2);
      bmp.bits = static_cast<int>(U16Le(*s, 6));
      bmp.palette_entry_bytes = 3;
      return absl::OkStatus();
    case 40:
    case 52:
    case 56:
    case 64:
    case 108:
    case 124:
      break;
    default:
      return BadImage(kFormat, absl::StrCat("unknown header of ", *header_size, " bytes"));
  }
  bmp.bottom_up = U8(*s, 7) != 0xFF;
  bmp.width = U32Le(*s, 0);
  bmp.height = U32Le(*s, 4);
  if (!bmp.bottom_up) bmp.height = (std::int64_t{1} << 32) - bmp.height;
  bmp.bits = static_cast<int>(U16Le(*s, 10));
  bmp.compression = U32Le(*s, 12);
  bmp.colors = U32Le(*s, 28);
  return bmp.compression == kBitFields ? ReadMasks(*s, reader, bmp) : absl::OkStatus();
}

absl::Status ChooseLayout(Bmp& bmp) {
  switch (bmp.bits) {
    case 1:
      bmp.mode = "P", bmp.raw = "P;1";
      break;
    case 4:
      bmp.mode = "P", bmp.raw = "P;4";
      break;
    case 8:
      bmp.mode = "P", bmp.raw = "P";
      break;
    case 16:
      bmp.mode = "RGB", bmp.raw = "BGR;15";
      break;
    case 24:
      bmp.mode = "RGB", bmp.raw = "BGR";
      break;
    case 32:
      bmp.mode = "RGB", bmp.raw = "BGRX";
      break;
    default:
      return BadImage(kFormat, absl::StrCat("unsupported depth of ", bmp.bits, " bits"));
  }
  if (bmp.compression == kBitFields) {
    for (const MaskLayout& layout : kMaskLayouts) {
      if (layout.bits == bmp.bits && layout.red == bmp.mask[0] && layout.green == bmp.mask[1] &&
          layout.blue == bmp.mask[2] && (bmp.bits != 32 || layout.alpha == bmp.mask[3])) {
        bmp.raw = layout.raw;
        bmp.mode = layout.raw.find('A') != std::string_view::npos ? "RGBA" : "RGB";
        return absl::OkStatus();
      }
    }
    return BadImage(kFormat, "unsupported bit fields");
  }
  if (bmp.compression > kBitFields) {
    return BadImage(kFormat, absl::StrCat("unsupported compression ", bmp.compression));
  }
  return absl::OkStatus();
}

// A palette of greys in order is dropped: the samples are read as grey of 8 bits or of 1, whatever
// their depth.
absl::Status ReadPalette(ByteReader& reader, Bmp& bmp) {
  if (bmp.colors <= 0 || bmp.colors > 65536) {
    return BadImage(kFormat, absl::StrCat("palette of ", bmp.colors, " colours"));
  }
  const std::size_t entry = static_cast<std::size_t>(bmp.palette_entry_bytes);
  const std::string_view stored = reader.Read(entry * static_cast<std::size_t>(bmp.colors));
  bool is_grey = true;
  for (std::int64_t i = 0; i < bmp.colors && is_grey; ++i) {
    const std::size_t at = static_cast<std::size_t>(i) * entry;
    const std::uint32_t grey =
        bmp.colors == 2 ? (i == 0 ? 0 : 255) : static_cast<std::uint32_t>(i & 255);
    is_grey = at + 3 <= stored.size() && U8(stored, at) == grey && U8(stored, at + 1) == grey &&
              U8(stored, at + 2) == grey;
  }
  if (is_grey) {
    bmp.mode = bmp.raw = bmp.colors <= 2 ? "1" : "L";
    return absl::OkStatus();
  }
  const std::size_t colors = stored.size() / entry;
  if (colors > 256) return BadImage(kFormat, absl::StrCat("palette of ", colors, " colours"));
  for (std::size_t i = 0; i < colors; ++i) {
    for (std::size_t c = 0; c < 3; ++c) {
      bmp.palette.rgb[i][c] = static_cast<std::uint8_t>(stored[i * entry + 2 - c]);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Bmp> ReadBmp(std::string_view bytes) {
  ByteReader reader(bytes);
  const std::string_view file_header = reader.Read(14);
  if (file_header.size() < 14) return Cut();
  Bmp bmp;
  std::uint32_t header_size = 0;
  SIGLIP_RETURN_IF_ERROR(ReadInfo(reader, bmp, &header_size));
  if (bmp.colors == 0 && bmp.bits < 32) bmp.colors = std::int64_t{1} << bmp.bits;
  std::uint64_t offset = U32Le(file_header, 10);
  if (offset == 14 + std::uint64_t{header_size} && bmp.bits <= 8) {
    offset += static_cast<std::uint64_t>(bmp.palette_entry_bytes * bmp.colors);
  }
  SIGLIP_RETURN_IF_ERROR(ChooseLayout(bmp));
  if (bmp.mode == "P") SIGLIP_RETURN_IF_ERROR(ReadPalette(reader, bmp));
  bmp.data_position = offset != 0 ? static_cast<std::size_t>(offset) : reader.position();
  if (bmp.width == 0 || bmp.height == 0) {
    return BadImage(kFormat, absl::StrCat("size ", bmp.width, "x", bmp.height));
  }
  return bmp;
}

absl::StatusOr<ImageHeader> ReadHeader(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const Bmp bmp, ReadBmp(bytes));
  ImageHeader header;
  header.format = std::string(kFormat);
  header.width = bmp.width;
  header.height = bmp.height;
  // RLE data are expanded to one byte a pixel first.
  if (bmp.width <= kPillowMaxPixels && bmp.height <= kPillowMaxPixels) {
    header.working_set_bytes = header.width * header.height * 4;
  }
  return header;
}

std::int64_t OutputRow(const Bmp& bmp, std::int64_t stored_row) {
  return bmp.bottom_up ? bmp.height - 1 - stored_row : stored_row;
}

absl::StatusOr<RgbImage> DecodeRows(std::string_view data, const Bmp& bmp, const RawMode& raw,
                                    std::int64_t stride) {
  const std::int64_t row_bytes = RawRowBytes(raw, bmp.width);
  if (row_bytes > stride) return BadImage(kFormat, "rows are shorter than the samples need");
  // Padding after the last row may be missing.
  const std::int64_t expected = stride * (bmp.height - 1) + row_bytes;
  if (static_cast<std::int64_t>(data.size()) < expected) {
    return BadImage(kFormat, absl::StrCat("truncated: expected ", expected,
                                          " bytes of pixels, got ", data.size()));
  }
  RgbImage image = AllocateRgb(bmp.width, bmp.height);
  const auto* in = reinterpret_cast<const std::uint8_t*>(data.data());
  for (std::int64_t y = 0; y < bmp.height; ++y, in += stride) {
    raw.to_rgb(in, static_cast<std::size_t>(bmp.width), bmp.palette,
               RgbRow(image, OutputRow(bmp, y)));
  }
  return image;
}

// Expands run-length data to one byte a pixel, with Pillow's rules for rows that are too long.
class RleExpander {
 public:
  RleExpander(std::string_view file, const Bmp& bmp)
      : reader_(file),
        width_(bmp.width),
        is_rle4_(bmp.compression == kRle4),
        total_(static_cast<std::size_t>(bmp.width * bmp.height)),
        out_(total_ + 255) {
    reader_.Seek(bmp.data_position);
  }

  // False if the data end before the picture does.
  bool Run() {
    while (size_ < total_) {
      const std::string_view pair = reader_.Read(2);
      if (pair.size() < 2) break;
      const std::uint32_t count = U8(pair, 0);
      const std::uint32_t byte = U8(pair, 1);
      if (count != 0) {
        Encoded(count, byte);
      } else if (byte == 0) {
        const std::size_t rest = size_ % static_cast<std::size_t>(width_);
        if (rest != 0) Zeros(static_cast<std::size_t>(width_) - rest);
        x_ = 0;
      } else if (byte == 1) {
        break;
      } else if (!(byte == 2 ? Delta() : Absolute(byte))) {
        break;
      }
    }
    return size_ >= total_;
  }

  const std::uint8_t* data() const { return out_.data(); }

 private:
  void Put(std::uint32_t value) {
    if (size_ < out_.size()) out_[size_++] = static_cast<std::uint8_t>(value);
  }
  void Zeros(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) Put(0);
  }

  void Encoded(std::int64_t count, std::uint32_t byte) {
    if (x_ + count > width_) count = std::max<std::int64_t>(0, width_ - x_);
    for (std::int64_t i = 0; i < count; ++i) {
      Put(!is_rle4_ ? byte : (i % 2 == 0 ? byte >> 4 : byte & 15));
    }
    x_ += count;
  }

  bool Delta() {
    const std::string_view move = reader_.Read(2);
    if (move.size() < 2) return false;
    const std::size_t skip = U8(move, 0) + U8(move, 1) * static_cast<std::size_t>(width_);
    Zeros(std::min(total_ - size_, skip));
    x_ = static_cast<std::int64_t>(size_ % static_cast<std::size_t>(width_));
    return true;
  }

  bool Absolute(std::uint32_t byte) {
    const std::size_t pixels = std::min<std::size_t>(total_ - size_, byte);
    const std::size_t bytes = is_rle4_ ? (pixels + 1) / 2 : pixels;
    const std::string_view stored = reader_.Read(bytes);
    for (std::size_t i = 0; i < stored.size(); ++i) {
      if (!is_rle4_) {
        Put(U8(stored, i));
        continue;
      }
      Put(U8(stored, i) >> 4);
      if (i * 2 + 1 < pixels) Put(U8(stored, i) & 15);
    }
    if (stored.size() < bytes || size_ == total_) return false;
    x_ += byte;
    if (reader_.position() % 2 != 0) reader_.Read(1);
    return true;
  }

  ByteReader reader_;
  const std::int64_t width_;
  const bool is_rle4_;
  const std::size_t total_;
  PixelBuffer out_;
  std::size_t size_ = 0;
  std::int64_t x_ = 0;
};

absl::StatusOr<RgbImage> DecodeRle(std::string_view bytes, const Bmp& bmp) {
  const RawMode* raw = FindRawMode(bmp.mode, bmp.mode == "P" ? "P" : "L");
  if (raw == nullptr) return BadImage(kFormat, "run-length data without a palette");
  RleExpander expander(bytes, bmp);
  if (!expander.Run()) return BadImage(kFormat, "truncated run-length data");
  RgbImage image = AllocateRgb(bmp.width, bmp.height);
  for (std::int64_t y = 0; y < bmp.height; ++y) {
    raw->to_rgb(expander.data() + y * bmp.width, static_cast<std::size_t>(bmp.width), bmp.palette,
                RgbRow(image, OutputRow(bmp, y)));
  }
  return image;
}

absl::StatusOr<RgbImage> Decode(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const Bmp bmp, ReadBmp(bytes));
  if (bmp.compression == kRle8 || bmp.compression == kRle4) return DecodeRle(bytes, bmp);
  const RawMode* raw = FindRawMode(bmp.mode, bmp.raw);
  if (raw == nullptr) return BadImage(kFormat, "unsupported layout");
  const std::int64_t stride = ((bmp.width * bmp.bits + 31) >> 3) & ~std::int64_t{3};
  return DecodeRows(bytes.substr(std::min(bmp.data_position, bytes.size())), bmp, *raw, stride);
}

}  // namespace

const Codec kBmpCodec = {kFormat, [](std::string_view bytes) { return bytes.substr(0, 2) == "BM"; },
                         ReadHeader, Decode};

}  // namespace siglip
