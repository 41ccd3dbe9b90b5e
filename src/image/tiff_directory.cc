// Source: Pillow 13.0.0 src/PIL/TiffImagePlugin.py (ImageFileDirectory_v2.load,
// TiffImageFile._setup, OPEN_INFO).

#include "image/tiff_directory.h"

#include "image/byte_reader.h"
#include "image/codec.h"

#include "base/status_macros.h"

#include "absl/strings/str_cat.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <utility>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "TIFF";

enum Tag : std::uint32_t {
  kImageWidth = 256,
  kImageLength = 257,
  kBitsPerSample = 258,
  kCompression = 259,
  kPhotometric = 262,
  kFillOrder = 266,
  kStripOffsets = 273,
  kOrientation = 274,
  kSamplesPerPixel = 277,
  kRowsPerStrip = 278,
  kPlanarConfiguration = 284,
  kColorMap = 320,
  kTileWidth = 322,
  kTileLength = 323,
  kTileOffsets = 324,
  kExtraSamples = 338,
  kSampleFormat = 339,
  kXmp = 700,
  kWindowsMediaPhoto = 0xBC01,
};

constexpr std::uint32_t kByteType = 1;

struct Entry {
  std::uint32_t type = 0;
  std::string_view data;
};

// Bytes of one value of a type; 0 for types that are skipped.
std::uint64_t UnitSize(std::uint32_t type) {
  switch (type) {
    case 1:
    case 2:
    case 6:
    case 7:
      return 1;
    case 3:
    case 8:
      return 2;
    case 4:
    case 9:
    case 11:
    case 13:
      return 4;
    case 5:
    case 10:
    case 12:
    case 16:
      return 8;
    default:
      return 0;
  }
}

class Directory {
 public:
  // Reads what can be read, as the plugin does: a directory that is cut leaves the entries so far.
  static absl::StatusOr<Directory> Read(std::string_view bytes) {
    if (bytes.size() < 8) return BadImage(kFormat, "truncated header");
    Directory directory;
    directory.is_big_endian_ = bytes[0] == 'M';
    directory.is_big_tiff_ = bytes[2] == 43;
    if (directory.is_big_tiff_ && bytes.size() < 16) return BadImage(kFormat, "truncated header");
    directory.offset_ = directory.is_big_tiff_ ? directory.U64(bytes, 8) : directory.U32(bytes, 4);
    if (directory.offset_ == 0) return BadImage(kFormat, "no image in the file");
    if (directory.offset_ >> 63 != 0) return BadImage(kFormat, "directory offset is too large");
    directory.ReadEntries(bytes);
    return directory;
  }

  bool is_big_endian() const { return is_big_endian_; }
  std::uint64_t offset() const { return offset_; }
  bool Has(std::uint32_t tag) const { return entries_.count(tag) != 0; }
  const Entry* Find(std::uint32_t tag) const {
    const auto it = entries_.find(tag);
    return it == entries_.end() ? nullptr : &it->second;
  }

  // All values of an integer tag. InvalidArgument for other types.
  absl::StatusOr<std::vector<std::int64_t>> Values(std::uint32_t tag) const {
    const Entry& entry = entries_.at(tag);
    std::vector<std::int64_t> values;
    const std::size_t unit = static_cast<std::size_t>(UnitSize(entry.type));
    for (std::size_t at = 0; at + unit <= entry.data.size(); at += unit) {
      const std::string_view s = entry.data;
      switch (entry.type) {
        case 3:
          values.push_back(U16(s, at));
          break;
        case 4:
        case 13:
          values.push_back(U32(s, at));
          break;
        case 6:
          values.push_back(static_cast<std::int8_t>(s[at]));
          break;
        case 8:
          values.push_back(static_cast<std::int16_t>(U16(s, at)));
          break;
        case 9:
          values.push_back(static_cast<std::int32_t>(U32(s, at)));
          break;
        case 16: {
          const std::uint64_t value = U64(s, at);
          if (value >> 63 != 0)
            return BadImage(kFormat, absl::StrCat("tag ", tag, " is too large"));
          values.push_back(static_cast<std::int64_t>(value));
          break;
        }
        default:
          return BadImage(kFormat,
                          absl::StrCat("tag ", tag, ": expected integers, got type ", entry.type));
      }
    }
    return values;
  }

  // The value of a tag that has one; `missing` if it is absent.
  absl::StatusOr<std::int64_t> Value(std::uint32_t tag, std::int64_t missing) const {
    if (!Has(tag)) return missing;
    SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::int64_t> values, Values(tag));
    // Python drops a photometric tag of several values, and takes the first of other tags.
    if (values.size() != 1 && tag == kPhotometric) return missing;
    return values[0];
  }

  absl::StatusOr<std::vector<std::int64_t>> ValuesOr(std::uint32_t tag,
                                                     std::vector<std::int64_t> missing) const {
    if (!Has(tag)) return missing;
    return Values(tag);
  }

 private:
  std::uint32_t U16(std::string_view s, std::size_t at) const {
    return is_big_endian_ ? U16Be(s, at) : U16Le(s, at);
  }
  std::uint32_t U32(std::string_view s, std::size_t at) const {
    return is_big_endian_ ? U32Be(s, at) : U32Le(s, at);
  }
  std::uint64_t U64(std::string_view s, std::size_t at) const {
    const std::uint64_t first = U32(s, at);
    const std::uint64_t second = U32(s, at + 4);
    return is_big_endian_ ? first << 32 | second : second << 32 | first;
  }

  void ReadEntries(std::string_view bytes) {
    ByteReader reader(bytes);
    if (offset_ > bytes.size()) return;
    reader.Seek(static_cast<std::size_t>(offset_));
    const std::optional<std::string_view> head = reader.ReadExactly(is_big_tiff_ ? 8 : 2);
    if (!head) return;
    const std::uint64_t count = is_big_tiff_ ? U64(*head, 0) : U16(*head, 0);
    std::uint64_t out_of_line_bytes = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::optional<std::string_view> s = reader.ReadExactly(is_big_tiff_ ? 20 : 12);
      if (!s || !ReadEntry(*s, bytes, out_of_line_bytes)) return;
    }
  }

  // False if the file ends within the entry's data.
  bool ReadEntry(std::string_view s, std::string_view bytes, std::uint64_t& out_of_line_bytes) {
    const std::uint32_t tag = U16(s, 0);
    Entry entry;
    entry.type = U16(s, 2);
    const std::uint64_t unit = UnitSize(entry.type);
    if (Has(tag) || unit == 0) return true;
    const std::uint64_t count = is_big_tiff_ ? U64(s, 4) : U32(s, 4);
    const std::string_view in_line = s.substr(is_big_tiff_ ? 12 : 8);
    std::uint64_t size = 0;
    if (__builtin_mul_overflow(count, unit, &size)) return true;
    if (size <= in_line.size()) {
      entry.data = in_line.substr(0, static_cast<std::size_t>(size));
    } else {
      const std::uint64_t offset = is_big_tiff_ ? U64(in_line, 0) : U32(in_line, 0);
      if (offset >> 63 != 0) return true;
      // The plugin's budget: all out-of-line data together are no larger than the file.
      if (__builtin_add_overflow(out_of_line_bytes, size, &out_of_line_bytes)) {
        out_of_line_bytes = ~std::uint64_t{0};
      }
      if (out_of_line_bytes > bytes.size()) return true;
      if (offset > bytes.size() || size > bytes.size() - offset) return false;
      entry.data = bytes.substr(static_cast<std::size_t>(offset), static_cast<std::size_t>(size));
    }
    if (!entry.data.empty()) entries_[tag] = entry;
    return true;
  }

  bool is_big_endian_ = false;
  bool is_big_tiff_ = false;
  std::uint64_t offset_ = 0;
  std::map<std::uint32_t, Entry> entries_;
};

// One row of the plugin's OPEN_INFO. endian: I, M or * for both. Extra samples: the first as given,
// the others 0; -1: none.
struct OpenInfo {
  char endian;
  int photometric, sample_format, fill_order, bits, samples, extra, extra_count;
  std::string_view mode, raw;
};

constexpr OpenInfo kOpenInfo[] = {
    {'*', 0, 1, 1, 1, 1, -1, 0, "1", "1;I"},
    {'*', 0, 1, 2, 1, 1, -1, 0, "1", "1;IR"},
    {'*', 1, 1, 1, 1, 1, -1, 0, "1", "1"},
    {'*', 1, 1, 2, 1, 1, -1, 0, "1", "1;R"},
    {'*', 0, 1, 1, 2, 1, -1, 0, "L", "L;2I"},
    {'*', 0, 1, 2, 2, 1, -1, 0, "L", "L;2IR"},
    {'*', 1, 1, 1, 2, 1, -1, 0, "L", "L;2"},
    {'*', 1, 1, 2, 2, 1, -1, 0, "L", "L;2R"},
    {'*', 0, 1, 1, 4, 1, -1, 0, "L", "L;4I"},
    {'*', 0, 1, 2, 4, 1, -1, 0, "L", "L;4IR"},
    {'*', 1, 1, 1, 4, 1, -1, 0, "L", "L;4"},
    {'*', 1, 1, 2, 4, 1, -1, 0, "L", "L;4R"},
    {'*', 0, 1, 1, 8, 1, -1, 0, "L", "L;I"},
    {'*', 0, 1, 2, 8, 1, -1, 0, "L", "L;IR"},
    {'*', 1, 1, 1, 8, 1, -1, 0, "L", "L"},
    {'*', 1, 2, 1, 8, 1, -1, 0, "L", "L"},
    {'*', 1, 1, 2, 8, 1, -1, 0, "L", "L;R"},
    {'I', 1, 1, 1, 12, 1, -1, 0, "I;16", "I;12"},
    {'I', 0, 1, 1, 16, 1, -1, 0, "I;16", "I;16"},
    {'I', 1, 1, 1, 16, 1, -1, 0, "I;16", "I;16"},
    {'M', 1, 1, 1, 16, 1, -1, 0, "I;16B", "I;16B"},
    {'I', 1, 1, 2, 16, 1, -1, 0, "I;16", "I;16R"},
    {'I', 1, 2, 1, 16, 1, -1, 0, "I", "I;16S"},
    {'M', 1, 2, 1, 16, 1, -1, 0, "I", "I;16BS"},
    {'I', 0, 3, 1, 32, 1, -1, 0, "F", "F;32F"},
    {'M', 0, 3, 1, 32, 1, -1, 0, "F", "F;32BF"},
    {'I', 1, 1, 1, 32, 1, -1, 0, "I", "I;32N"},
    {'I', 1, 2, 1, 32, 1, -1, 0, "I", "I;32S"},
    {'M', 1, 2, 1, 32, 1, -1, 0, "I", "I;32BS"},
    {'I', 1, 3, 1, 32, 1, -1, 0, "F", "F;32F"},
    {'M', 1, 3, 1, 32, 1, -1, 0, "F", "F;32BF"},
    {'*', 1, 1, 1, 8, 2, 0, 1, "L", "LX"},
    {'*', 1, 1, 1, 8, 2, 1, 1, "La", "La"},
    {'*', 1, 1, 1, 8, 2, 2, 1, "LA", "LA"},
    {'*', 2, 1, 1, 8, 3, -1, 0, "RGB", "RGB"},
    {'*', 2, 1, 2, 8, 3, -1, 0, "RGB", "RGB;R"},
    {'*', 2, 1, 1, 8, 4, -1, 0, "RGBA", "RGBA"},
    {'*', 2, 1, 1, 8, 4, 0, 1, "RGB", "RGBX"},
    {'*', 2, 1, 1, 8, 5, 0, 2, "RGB", "RGBXX"},
    {'*', 2, 1, 1, 8, 6, 0, 3, "RGB", "RGBXXX"},
    {'*', 2, 1, 1, 8, 4, 1, 1, "RGBA", "RGBa"},
    {'*', 2, 1, 1, 8, 5, 1, 2, "RGBA", "RGBaX"},
    {'*', 2, 1, 1, 8, 6, 1, 3, "RGBA", "RGBaXX"},
    {'*', 2, 1, 1, 8, 4, 2, 1, "RGBA", "RGBA"},
    {'*', 2, 1, 1, 8, 5, 2, 2, "RGBA", "RGBAX"},
    {'*', 2, 1, 1, 8, 6, 2, 3, "RGBA", "RGBAXX"},
    {'*', 2, 1, 1, 8, 4, 999, 1, "RGBA", "RGBA"},
    {'I', 2, 1, 1, 16, 3, -1, 0, "RGB", "RGB;16L"},
    {'M', 2, 1, 1, 16, 3, -1, 0, "RGB", "RGB;16B"},
    {'I', 2, 1, 1, 16, 4, -1, 0, "RGBA", "RGBA;16L"},
    {'M', 2, 1, 1, 16, 4, -1, 0, "RGBA", "RGBA;16B"},
    {'I', 2, 1, 1, 16, 4, 0, 1, "RGB", "RGBX;16L"},
    {'M', 2, 1, 1, 16, 4, 0, 1, "RGB", "RGBX;16B"},
    {'I', 2, 1, 1, 16, 4, 1, 1, "RGBA", "RGBa;16L"},
    {'M', 2, 1, 1, 16, 4, 1, 1, "RGBA", "RGBa;16B"},
    {'I', 2, 1, 1, 16, 4, 2, 1, "RGBA", "RGBA;16L"},
    {'M', 2, 1, 1, 16, 4, 2, 1, "RGBA", "RGBA;16B"},
    {'*', 3, 1, 1, 1, 1, -1, 0, "P", "P;1"},
    {'*', 3, 1, 2, 1, 1, -1, 0, "P", "P;1R"},
    {'*', 3, 1, 1, 2, 1, -1, 0, "P", "P;2"},
    {'*', 3, 1, 2, 2, 1, -1, 0, "P", "P;2R"},
    {'*', 3, 1, 1, 4, 1, -1, 0, "P", "P;4"},
    {'*', 3, 1, 2, 4, 1, -1, 0, "P", "P;4R"},
    {'*', 3, 1, 1, 8, 1, -1, 0, "P", "P"},
    {'*', 3, 1, 1, 8, 2, 0, 1, "P", "PX"},
    {'*', 3, 1, 1, 8, 2, 2, 1, "PA", "PA"},
    {'*', 3, 1, 2, 8, 1, -1, 0, "P", "P;R"},
    {'*', 5, 1, 1, 8, 4, -1, 0, "CMYK", "CMYK"},
    {'*', 5, 1, 1, 8, 5, 0, 1, "CMYK", "CMYKX"},
    {'*', 5, 1, 1, 8, 6, 0, 2, "CMYK", "CMYKXX"},
    {'I', 5, 1, 1, 16, 4, -1, 0, "CMYK", "CMYK;16L"},
    {'M', 5, 1, 1, 16, 4, -1, 0, "CMYK", "CMYK;16B"},
    {'*', 6, 1, 1, 8, 1, -1, 0, "L", "L"},
    {'*', 6, 1, 1, 8, 3, -1, 0, "YCbCr", "YCbCr"},
    {'*', 8, 1, 1, 8, 3, -1, 0, "LAB", "LAB"},
};
constexpr std::int64_t kMaxSamples = 6;

struct Key {
  char endian = 'I';
  std::int64_t photometric = 0;
  std::vector<std::int64_t> sample_format;
  std::int64_t fill_order = 1;
  std::vector<std::int64_t> bits;
  std::vector<std::int64_t> extra;
};

const OpenInfo* FindOpenInfo(const Key& key) {
  if (key.sample_format.size() != 1 || key.bits.empty()) return nullptr;
  for (const OpenInfo& row : kOpenInfo) {
    if ((row.endian != '*' && row.endian != key.endian) || row.photometric != key.photometric ||
        row.sample_format != key.sample_format[0] || row.fill_order != key.fill_order ||
        row.samples != static_cast<int>(key.bits.size()) ||
        row.extra_count != static_cast<int>(key.extra.size())) {
      continue;
    }
    const bool bits_fit = std::all_of(key.bits.begin(), key.bits.end(),
                                      [&](std::int64_t b) { return b == row.bits; });
    bool extra_fits = true;
    for (std::size_t i = 0; i < key.extra.size(); ++i) {
      extra_fits = extra_fits && key.extra[i] == (i == 0 ? row.extra : 0);
    }
    if (bits_fit && extra_fits) return &row;
  }
  return nullptr;
}

bool IsKnownCompression(std::int64_t compression) {
  switch (compression) {
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
    case 6:
    case 7:
    case 8:
    case 32771:
    case 32773:
    case 32809:
    case 32946:
    case 34676:
    case 34677:
    case 34925:
    case 50000:
    case 50001:
      return true;
    default:
      return false;
  }
}

constexpr std::int64_t kUncompressed = 1;
constexpr std::int64_t kOldJpeg = 6;
constexpr std::int64_t kJpeg = 7;

// tiff:Orientation="N" or tiff:Orientation>N of an XMP packet, which counts where the tag is
// missing.
int XmpOrientation(std::string_view xmp) {
  constexpr std::string_view kName = "tiff:Orientation";
  for (std::size_t at = xmp.find(kName); at != std::string_view::npos;
       at = xmp.find(kName, at + 1)) {
    std::string_view rest = xmp.substr(at + kName.size());
    if (rest.substr(0, 2) == "=\"") {
      rest.remove_prefix(2);
    } else if (rest.substr(0, 1) == ">") {
      rest.remove_prefix(1);
    } else {
      continue;
    }
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return rest[0] - '0';
  }
  return 1;
}

void ReadOrientation(const Directory& directory, TiffLayout& layout) {
  if (const Entry* tag = directory.Find(kOrientation); tag != nullptr) {
    const auto value = directory.Value(kOrientation, 1);
    // A tag that is no integer matches none of the eight.
    if (value.ok() && *value >= 1 && *value <= 8) layout.orientation = static_cast<int>(*value);
  } else if (const Entry* xmp = directory.Find(kXmp); xmp != nullptr) {
    layout.orientation = XmpOrientation(xmp->data);
    if (layout.orientation < 1 || layout.orientation > 8) layout.orientation = 1;
  }
}

// Bits of each sample, with the plugin's repairs. Leaves `key` and the sample count consistent.
absl::Status ReadSamples(const Directory& directory, std::int64_t compression, Key& key,
                         TiffLayout& layout) {
  SIGLIP_ASSIGN_OR_RETURN(key.sample_format, directory.ValuesOr(kSampleFormat, {1}));
  const auto [low, high] = std::minmax_element(key.sample_format.begin(), key.sample_format.end());
  if (key.sample_format.size() > 1 && *low == *high) {
    key.sample_format.erase(key.sample_format.begin() + 1, key.sample_format.end());
  }
  SIGLIP_ASSIGN_OR_RETURN(key.bits, directory.ValuesOr(kBitsPerSample, {1}));
  SIGLIP_ASSIGN_OR_RETURN(key.extra, directory.ValuesOr(kExtraSamples, {}));
  const bool is_old_jpeg_color =
      compression == kOldJpeg && (key.photometric == 2 || key.photometric == 6);
  SIGLIP_ASSIGN_OR_RETURN(std::int64_t samples,
                          directory.Value(kSamplesPerPixel, is_old_jpeg_color ? 3 : 1));
  const std::int64_t p = key.photometric;
  std::size_t bands = p == 2 || p == 6 || p == 8 ? 3 : (p == 5 ? 4 : 1);
  if (layout.is_planar && !key.extra.empty() &&
      *std::max_element(key.extra.begin(), key.extra.end()) == 0) {
    // Unspecified extra planes at the end are ignored.
    key.bits.erase(
        key.bits.end() - static_cast<std::ptrdiff_t>(std::min(key.bits.size(), key.extra.size())),
        key.bits.end());
    samples -= static_cast<std::int64_t>(key.extra.size());
    key.extra.clear();
  }
  bands += key.extra.size();
  layout.bands_in_key = static_cast<int>(bands);
  if (samples > kMaxSamples || samples < 0) {
    return BadImage(kFormat, absl::StrCat(samples, " samples per pixel"));
  }
  const std::size_t count = static_cast<std::size_t>(samples);
  if (count < key.bits.size()) {
    key.bits.erase(key.bits.begin() + samples, key.bits.end());
  } else if (key.bits.size() == 1) {
    key.bits.assign(count, key.bits[0]);
  }
  if (key.bits.size() != count)
    return BadImage(kFormat, "BitsPerSample and SamplesPerPixel differ");
  for (const std::int64_t bits : key.bits) layout.bits_per_pixel += bits;
  return absl::OkStatus();
}

// What libtiff hands out is in native order and has its bits in order.
void AdjustForLibtiff(const Key& key, std::int64_t compression, TiffLayout& layout) {
  if (key.photometric == 6) {
    layout.mode = "RGB";
    layout.raw = compression == kJpeg && !layout.is_planar ? "RGB" : "RGBX";
  } else if (layout.raw == "I;16") {
    layout.raw = "I;16N";
  } else if (layout.raw.size() > 4 && (layout.raw.substr(layout.raw.size() - 4) == ";16B" ||
                                       layout.raw.substr(layout.raw.size() - 4) == ";16L")) {
    layout.raw.back() = 'N';
  }
}

absl::Status ReadTiles(const Directory& directory, TiffLayout& layout) {
  if (directory.Has(kStripOffsets)) {
    SIGLIP_ASSIGN_OR_RETURN(layout.offsets, directory.Values(kStripOffsets));
    SIGLIP_ASSIGN_OR_RETURN(layout.tile_height, directory.Value(kRowsPerStrip, layout.height));
    layout.tile_width = layout.width;
  } else if (directory.Has(kTileOffsets)) {
    SIGLIP_ASSIGN_OR_RETURN(layout.offsets, directory.Values(kTileOffsets));
    SIGLIP_ASSIGN_OR_RETURN(layout.tile_width, directory.Value(kTileWidth, 0));
    SIGLIP_ASSIGN_OR_RETURN(layout.tile_height, directory.Value(kTileLength, 0));
  } else {
    return BadImage(kFormat, "neither strips nor tiles");
  }
  if (layout.tile_width <= 0 || layout.tile_height <= 0) {
    return BadImage(
        kFormat, absl::StrCat("strips or tiles of ", layout.tile_width, "x", layout.tile_height));
  }
  return absl::OkStatus();
}

absl::Status ReadColorMap(const Directory& directory, TiffLayout& layout) {
  if (layout.mode != "P" && layout.mode != "PA") return absl::OkStatus();
  if (!directory.Has(kColorMap)) return BadImage(kFormat, "palette image without a colour map");
  // Bytes have no high byte: all colours are black.
  if (const Entry* map = directory.Find(kColorMap); map->type == kByteType) {
    return map->data.size() / 3 <= 256 ? absl::OkStatus()
                                       : BadImage(kFormat, "colour map is too long");
  }
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::int64_t> map, directory.Values(kColorMap));
  const std::size_t colors = map.size() / 3;
  if (colors > 256) return BadImage(kFormat, absl::StrCat("colour map of ", colors, " colours"));
  for (const std::int64_t value : map) {
    if (value < 0 || value > 65535) return BadImage(kFormat, "colour map value is out of range");
  }
  for (std::size_t i = 0; i < colors; ++i) {
    for (std::size_t c = 0; c < 3; ++c) {
      layout.palette.rgb[i][c] = static_cast<std::uint8_t>(map[c * colors + i] / 256);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TiffLayout> ReadTiffLayout(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const Directory directory, Directory::Read(bytes));
  if (directory.Has(kWindowsMediaPhoto)) return BadImage(kFormat, "Windows Media Photo");
  TiffLayout layout;
  layout.directory_offset = directory.offset();
  SIGLIP_ASSIGN_OR_RETURN(const std::int64_t compression,
                          directory.Value(kCompression, kUncompressed));
  if (!IsKnownCompression(compression)) {
    return BadImage(kFormat, absl::StrCat("unknown compression ", compression));
  }
  const absl::StatusOr<std::int64_t> planar = directory.Value(kPlanarConfiguration, 1);
  layout.is_planar = planar.ok() && *planar == 2;  // a tag that is no integer is not 2 either
  Key key;
  key.endian = directory.is_big_endian() ? 'M' : 'I';
  SIGLIP_ASSIGN_OR_RETURN(key.photometric, directory.Value(kPhotometric, 0));
  if (compression == kOldJpeg) key.photometric = 6;
  SIGLIP_ASSIGN_OR_RETURN(key.fill_order, directory.Value(kFillOrder, 1));
  SIGLIP_ASSIGN_OR_RETURN(layout.width, directory.Value(kImageWidth, 0));
  SIGLIP_ASSIGN_OR_RETURN(layout.height, directory.Value(kImageLength, 0));
  if (layout.width <= 0 || layout.height <= 0) {
    return BadImage(kFormat, absl::StrCat("size ", layout.width, "x", layout.height));
  }
  ReadOrientation(directory, layout);
  SIGLIP_RETURN_IF_ERROR(ReadSamples(directory, compression, key, layout));
  const OpenInfo* info = FindOpenInfo(key);
  layout.uses_libtiff = compression != kUncompressed;
  if (info != nullptr && layout.uses_libtiff && key.fill_order == 2) {
    key.fill_order = 1;
    info = FindOpenInfo(key);
  }
  if (info == nullptr) return BadImage(kFormat, "unknown combination of photometric and samples");
  layout.mode = info->mode;
  layout.raw = std::string(info->raw);
  if (layout.uses_libtiff) {
    AdjustForLibtiff(key, compression, layout);
  } else {
    SIGLIP_RETURN_IF_ERROR(ReadTiles(directory, layout));
  }
  SIGLIP_RETURN_IF_ERROR(ReadColorMap(directory, layout));
  return layout;
}

}  // namespace siglip
