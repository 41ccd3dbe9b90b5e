// Source: Pillow 13.0.0 src/PIL/TiffImagePlugin.py (ImageFileDirectory_v2.load,
// TiffImageFile._setup, OPEN_INFO).

#include "image/tiff_directory.h"

#include "image/byte_reader.h"
#include "image/codec.h"

#include "base/status_macros.h"

#include "absl/strings/str_cat.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

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
  kStripByteCounts = 279,
  kMinSampleValue = 280,
  kMaxSampleValue = 281,
  kXResolution = 282,
  kYResolution = 283,
  kPlanarConfiguration = 284,
  kResolutionUnit = 296,
  kColorMap = 320,
  kTileWidth = 322,
  kTileLength = 323,
  kTileOffsets = 324,
  kTileByteCounts = 325,
  kExtraSamples = 338,
  kSampleFormat = 339,
  kXmp = 700,
  kDataType = 32996,
  kImageDepth = 32997,
  kTileDepth = 32998,
  kExifDirectory = 34665,
  kGpsDirectory = 34853,
  kInteropDirectory = 40965,
  kWindowsMediaPhoto = 0xBC01,
};

enum Type : std::uint32_t {
  kByteType = 1,
  kAsciiType = 2,
  kLongType = 4,
  kRationalType = 5,
  kUndefinedType = 7,
  kSignedRationalType = 10,
  kFloatType = 11,
  kDoubleType = 12,
  kDirectoryType = 13,
  kLong8Type = 16,
  kSignedLong8Type = 17,
  kDirectory8Type = 18,
};

// Types of BigTIFF that the plugin skips and libtiff reads.
bool IsOfLibtiffAlone(std::uint32_t type) {
  return type == kSignedLong8Type || type == kDirectory8Type;
}

bool IsSizeOrOffset(std::uint32_t tag) {
  constexpr std::uint32_t kTags[] = {kImageWidth,      kImageLength, kStripOffsets, kRowsPerStrip,
                                     kStripByteCounts, kTileWidth,   kTileLength,   kTileOffsets,
                                     kTileByteCounts,  kImageDepth,  kTileDepth};
  return std::find(std::begin(kTags), std::end(kTags), tag) != std::end(kTags);
}

// Python's reading of the three types that are no numbers.
bool IsText(std::uint32_t type) {
  return type == kByteType || type == kAsciiType || type == kUndefinedType;
}

struct Entry {
  std::uint32_t type = 0;
  std::string_view data;
  std::size_t at = 0;  // where in the file it is
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

std::uint64_t ReadU64(std::string_view s, std::size_t at, bool is_big_endian) {
  return is_big_endian ? std::uint64_t{U32Be(s, at)} << 32 | U32Be(s, at + 4)
                       : std::uint64_t{U32Le(s, at + 4)} << 32 | U32Le(s, at);
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

  // The first directory of Exif data, wherever it is. REQUIRES: 8 bytes, not BigTIFF.
  static Directory ReadExif(std::string_view exif) {
    Directory directory;
    directory.is_big_endian_ = exif[0] == 'M';
    return directory.At(exif, directory.U32(exif, 4));
  }

  bool is_big_endian() const { return is_big_endian_; }
  std::uint64_t offset() const { return offset_; }
  bool Has(std::uint32_t tag) const { return entries_.count(tag) != 0; }
  const Entry* Find(std::uint32_t tag) const {
    const auto it = entries_.find(tag);
    return it == entries_.end() ? nullptr : &it->second;
  }

  // The number of values that a tag declares, though its data may be unreadable; 0 if it is absent.
  std::uint64_t DeclaredCount(std::uint32_t tag) const {
    const auto it = counts_.find(tag);
    return it == counts_.end() ? 0 : it->second;
  }

  // Empty for a tag that is absent or holds no integers.
  TiffIntegers Integers(std::uint32_t tag) const {
    const Entry* entry = Find(tag);
    if (entry == nullptr || !TiffIntegers::IsInteger(entry->type)) return {};
    return TiffIntegers(entry->data, entry->type, is_big_endian_);
  }

  // All values of an integer tag. InvalidArgument for other types.
  absl::StatusOr<std::vector<std::int64_t>> Values(std::uint32_t tag) const {
    SIGLIP_RETURN_IF_ERROR(CheckType(tag));
    const TiffIntegers integers = Integers(tag);
    std::vector<std::int64_t> values(integers.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = integers[i];
      if (values[i] == INT64_MAX) return TooLarge(tag);
    }
    return values;
  }

  // The same for a tag in whose bytes Python sees numbers, too.
  absl::StatusOr<std::vector<std::int64_t>> ValuesOrBytes(std::uint32_t tag) const {
    const Entry* entry = Find(tag);
    if (entry == nullptr || entry->type != kByteType) return ValuesOr(tag, {});
    return std::vector<std::int64_t>(reinterpret_cast<const std::uint8_t*>(entry->data.begin()),
                                     reinterpret_cast<const std::uint8_t*>(entry->data.end()));
  }

  bool HoldsBytes(std::uint32_t tag) const {
    const Entry* entry = Find(tag);
    return entry != nullptr && entry->type == kByteType;
  }

  // The value of a tag that has one; `missing` if it is absent.
  absl::StatusOr<std::int64_t> Value(std::uint32_t tag, std::int64_t missing) const {
    if (!Has(tag)) return missing;
    SIGLIP_RETURN_IF_ERROR(CheckType(tag));
    const TiffIntegers values = Integers(tag);
    // Python drops a photometric tag of several values, and takes the first of other tags.
    if (values.size() != 1 && tag == kPhotometric) return missing;
    return values[0] == INT64_MAX ? absl::StatusOr<std::int64_t>(TooLarge(tag)) : values[0];
  }

  absl::StatusOr<std::vector<std::int64_t>> ValuesOr(std::uint32_t tag,
                                                     std::vector<std::int64_t> missing) const {
    if (!Has(tag)) return missing;
    return Values(tag);
  }

  // What libtiff 4.7 (Pillow's) reads and 4.5 does not, as 4.5 reads it: sizes and offsets of the
  // types of directories, and values of the samples, all alike, that are fewer than the samples.
  std::vector<TiffRepair> Repairs() const {
    std::vector<TiffRepair> repairs;
    for (const auto& [tag, repair] : retyped_) repairs.push_back(repair);
    const std::uint64_t samples =
        static_cast<std::uint64_t>(Value(kSamplesPerPixel, 1).value_or(1));
    for (const std::uint32_t tag : {kBitsPerSample, kCompression, kMinSampleValue, kMaxSampleValue,
                                    kSampleFormat, kDataType}) {
      const Entry* entry = Find(tag);
      if (entry == nullptr) continue;
      const std::string_view s = entry->data;
      const std::size_t unit = static_cast<std::size_t>(UnitSize(entry->type));
      const std::size_t count = s.size() / unit;
      if (count < 2 || count >= samples || s.substr(unit) != s.substr(0, s.size() - unit)) continue;
      const std::size_t width = is_big_tiff_ ? 8 : 4;
      std::string bytes = Number(1, width);
      if (unit <= width) {  // else the offset of the first stays
        bytes += s.substr(0, unit);
        bytes.resize(2 * width);
      }
      repairs.push_back({entry->at + 4, std::move(bytes)});
    }
    return repairs;
  }

  // Python's bool() of a tag's first value.
  bool IsTrue(const Entry& entry) const {
    const std::string_view s = entry.data;
    switch (entry.type) {
      case kByteType:
      case kUndefinedType:
        return true;
      case kAsciiType:
        return s != std::string_view("\0", 1);
      case kRationalType:
      case kSignedRationalType:
        return U32(s, 0) != 0 || U32(s, 4) == 0;  // x/0 is no number, which is true
      case kFloatType:
        return (U32(s, 0) & 0x7FFFFFFF) != 0;
      case kDoubleType:
        return (U64(s, 0) << 1) != 0;
      default:
        return TiffIntegers(s, entry.type, is_big_endian_)[0] != 0;
    }
  }

  // Whether a tag's first value compares equal to 3.
  bool IsThree(const Entry& entry) const {
    const std::string_view s = entry.data;
    switch (entry.type) {
      case kByteType:
      case kUndefinedType:
      case kAsciiType:
        return false;
      case kRationalType:
        return U32(s, 4) != 0 && U32(s, 0) == std::uint64_t{3} * U32(s, 4);
      case kSignedRationalType:
        return U32(s, 4) != 0 && static_cast<std::int32_t>(U32(s, 0)) ==
                                     std::int64_t{3} * static_cast<std::int32_t>(U32(s, 4));
      case kFloatType:
        return std::bit_cast<float>(U32(s, 0)) == 3.0F;
      case kDoubleType:
        return std::bit_cast<double>(U64(s, 0)) == 3.0;
      default:
        return TiffIntegers(s, entry.type, is_big_endian_)[0] == 3;
    }
  }

  // No directory follows, or none that can be told.
  bool is_last() const { return next_ == 0 || next_ == offset_; }

  // The directory of the same file at an offset.
  Directory At(std::string_view bytes, std::uint64_t offset) const {
    Directory directory;
    directory.is_big_endian_ = is_big_endian_;
    directory.is_big_tiff_ = is_big_tiff_;
    directory.offset_ = offset;
    directory.ReadEntries(bytes);
    return directory;
  }

 private:
  absl::Status CheckType(std::uint32_t tag) const {
    const std::uint32_t type = entries_.at(tag).type;
    if (TiffIntegers::IsInteger(type)) return absl::OkStatus();
    return BadImage(kFormat, absl::StrCat("tag ", tag, ": expected integers, got type ", type));
  }
  static absl::Status TooLarge(std::uint32_t tag) {
    return BadImage(kFormat, absl::StrCat("tag ", tag, " is too large"));
  }

  std::uint32_t U16(std::string_view s, std::size_t at) const {
    return is_big_endian_ ? U16Be(s, at) : U16Le(s, at);
  }
  std::uint32_t U32(std::string_view s, std::size_t at) const {
    return is_big_endian_ ? U32Be(s, at) : U32Le(s, at);
  }
  std::uint64_t U64(std::string_view s, std::size_t at) const {
    return ReadU64(s, at, is_big_endian_);
  }

  // A number below 256 of so many bytes.
  std::string Number(char value, std::size_t bytes) const {
    std::string number(bytes, '\0');
    number[is_big_endian_ ? bytes - 1 : 0] = value;
    return number;
  }

  // Gives an entry of a type of directories that of numbers. The plugin may not have read it.
  void Retype(std::uint32_t tag, const Entry& entry) {
    if (entry.type != kDirectoryType && entry.type != kDirectory8Type) return;
    const char type = entry.type == kDirectoryType ? kLongType : kLong8Type;
    retyped_.try_emplace(tag, TiffRepair{entry.at + 2, Number(type, 2)});
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
    const std::optional<std::string_view> next = reader.ReadExactly(is_big_tiff_ ? 8 : 4);
    if (next) next_ = is_big_tiff_ ? U64(*next, 0) : U32(*next, 0);
  }

  // False if the file ends within the entry's data.
  bool ReadEntry(std::string_view s, std::string_view bytes, std::uint64_t& out_of_line_bytes) {
    const std::uint32_t tag = U16(s, 0);
    Entry entry;
    entry.type = U16(s, 2);
    entry.at = static_cast<std::size_t>(s.data() - bytes.data());
    const std::uint64_t unit = UnitSize(entry.type);
    const std::uint64_t count = is_big_tiff_ ? U64(s, 4) : U32(s, 4);
    if (IsSizeOrOffset(tag)) {
      Retype(tag, entry);
      if (IsOfLibtiffAlone(entry.type)) counts_.try_emplace(tag, count);
    }
    if (Has(tag) || unit == 0) return true;
    counts_.try_emplace(tag, count);
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
  std::uint64_t next_ = 0;
  std::map<std::uint32_t, Entry> entries_;
  std::map<std::uint32_t, std::uint64_t> counts_;
  std::map<std::uint32_t, TiffRepair> retyped_;
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

// Of those that Pillow's plugin knows; its libtiff is built without WebP (50001).
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

// Without an orientation Pillow searches the XMP packet for one, as bytes; after turning the
// picture by its tag it searches the packet to remove it, as bytes or text.
absl::Status ReadOrientation(const Directory& directory, TiffLayout& layout) {
  const Entry* xmp = directory.Find(kXmp);
  const bool is_packet = xmp == nullptr || xmp->type == kByteType || xmp->type == kUndefinedType;
  bool is_refused = false;
  if (directory.Has(kOrientation)) {
    const auto value = directory.Value(kOrientation, 1);
    // A tag that is no integer matches none of the eight.
    if (value.ok() && *value >= 1 && *value <= 8) layout.orientation = static_cast<int>(*value);
    is_refused = !is_packet && layout.orientation > 1 && xmp->type != kAsciiType;
  } else if (!is_packet) {
    const bool is_list = xmp->type != kAsciiType && xmp->data.size() > UnitSize(xmp->type);
    is_refused = is_list || directory.IsTrue(*xmp);
  } else if (xmp != nullptr) {
    layout.orientation = XmpOrientation(xmp->data);
    if (layout.orientation < 1 || layout.orientation > 8) layout.orientation = 1;
  }
  return is_refused ? BadImage(kFormat, absl::StrCat("XMP of type ", xmp->type)) : absl::OkStatus();
}

// Pillow multiplies resolutions per centimetre.
absl::Status CheckResolution(const Directory& directory) {
  const Entry* x = directory.Find(kXResolution);
  const Entry* y = directory.Find(kYResolution);
  const Entry* unit = directory.Find(kResolutionUnit);
  if (unit == nullptr || (x != nullptr && !directory.IsTrue(*x)) ||
      (y != nullptr && !directory.IsTrue(*y))) {
    return absl::OkStatus();
  }
  const bool is_centimetre = directory.IsThree(*unit) ||
                             (unit->type == kAsciiType &&
                              (unit->data == "cm" || unit->data == std::string_view("cm\0", 3)));
  const bool has_text = (x != nullptr && IsText(x->type)) || (y != nullptr && IsText(y->type));
  return is_centimetre && has_text ? BadImage(kFormat, "a resolution is no number")
                                   : absl::OkStatus();
}

// Whether Pillow can go to the offset that a tag holds; anything but an integer it ignores.
bool CanSeek(const Directory& directory, std::uint32_t tag) {
  const TiffIntegers offsets = directory.Integers(tag);
  return offsets.empty() || (offsets[0] >= 0 && offsets[0] != INT64_MAX);
}

// Of a file with one directory Pillow reads the directories that hang on it.
absl::Status CheckSubdirectories(std::string_view bytes, const Directory& directory) {
  if (!directory.is_last()) return absl::OkStatus();
  bool can_seek = CanSeek(directory, kExifDirectory) && CanSeek(directory, kGpsDirectory);
  const TiffIntegers exif = directory.Integers(kExifDirectory);
  if (can_seek && !exif.empty() && directory.Has(kInteropDirectory)) {
    can_seek = CanSeek(directory.At(bytes, static_cast<std::uint64_t>(exif[0])), kInteropDirectory);
  }
  return can_seek ? absl::OkStatus() : BadImage(kFormat, "a directory's offset is negative");
}

// Bits of each sample, with the plugin's repairs. Leaves `key` and the sample count consistent.
absl::Status ReadSamples(const Directory& directory, std::int64_t compression, Key& key,
                         TiffLayout& layout) {
  SIGLIP_ASSIGN_OR_RETURN(key.sample_format, directory.ValuesOrBytes(kSampleFormat));
  // Bytes equal no row of the table, but one of several bytes that are alike is a number.
  if (directory.HoldsBytes(kSampleFormat) && key.sample_format.size() == 1) {
    return BadImage(kFormat, "the sample format is a byte");
  }
  if (key.sample_format.empty()) key.sample_format = {1};
  const auto [low, high] = std::minmax_element(key.sample_format.begin(), key.sample_format.end());
  if (key.sample_format.size() > 1 && *low == *high) {
    key.sample_format.erase(key.sample_format.begin() + 1, key.sample_format.end());
  }
  SIGLIP_ASSIGN_OR_RETURN(key.bits, directory.ValuesOr(kBitsPerSample, {1}));
  SIGLIP_ASSIGN_OR_RETURN(key.extra, directory.ValuesOrBytes(kExtraSamples));
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
  } else if (directory.HoldsBytes(kExtraSamples)) {
    return BadImage(kFormat, "extra samples are bytes");
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

// The offsets of a tag; each byte of a BYTE tag is one, too.
absl::Status ReadOffsets(const Directory& directory, std::uint32_t tag, TiffLayout& layout) {
  const Entry& entry = *directory.Find(tag);
  layout.offsets = TiffIntegers(entry.data, entry.type, directory.is_big_endian());
  if (!layout.offsets.empty()) return absl::OkStatus();
  return BadImage(kFormat, absl::StrCat("tag ", tag, ": expected integers, got type ", entry.type));
}

absl::Status ReadTiles(const Directory& directory, TiffLayout& layout) {
  if (directory.Has(kStripOffsets)) {
    SIGLIP_RETURN_IF_ERROR(ReadOffsets(directory, kStripOffsets, layout));
    SIGLIP_ASSIGN_OR_RETURN(layout.tile_height, directory.Value(kRowsPerStrip, layout.height));
    layout.tile_width = layout.width;
  } else if (directory.Has(kTileOffsets)) {
    SIGLIP_RETURN_IF_ERROR(ReadOffsets(directory, kTileOffsets, layout));
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

// libtiff 4.7 (Pillow's) keeps lists of up to 4 entries apart from longer ones, and refuses a file
// whose offsets and sizes are not kept alike; 4.5 reads it.
bool HasOddCounts(const Directory& directory) {
  constexpr std::uint64_t kShortList = 4;
  const auto declared = [&directory](std::uint32_t tiles, std::uint32_t strips) {
    return std::max(directory.DeclaredCount(tiles), directory.DeclaredCount(strips));
  };
  const std::uint64_t offsets = declared(kTileOffsets, kStripOffsets);
  const std::uint64_t sizes = declared(kTileByteCounts, kStripByteCounts);
  return (offsets > kShortList) != (sizes > kShortList);
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

TiffIntegers::TiffIntegers(std::string_view data, std::uint32_t type, bool is_big_endian)
    : data_(data),
      type_(type),
      unit_(IsInteger(type) || type == kByteType ? static_cast<std::size_t>(UnitSize(type)) : 0),
      is_big_endian_(is_big_endian) {}

bool TiffIntegers::IsInteger(std::uint32_t type) {
  return type == 3 || type == 4 || type == 6 || type == 8 || type == 9 || type == 13 || type == 16;
}

std::int64_t TiffIntegers::operator[](std::size_t i) const {
  const std::size_t at = i * unit_;
  const auto u16 = [&] { return is_big_endian_ ? U16Be(data_, at) : U16Le(data_, at); };
  const auto u32 = [&] { return is_big_endian_ ? U32Be(data_, at) : U32Le(data_, at); };
  switch (type_) {
    case kByteType:
      return U8(data_, at);
    case 3:
      return u16();
    case 6:
      return static_cast<std::int8_t>(data_[at]);
    case 8:
      return static_cast<std::int16_t>(u16());
    case 9:
      return static_cast<std::int32_t>(u32());
    case 16:
      return static_cast<std::int64_t>(
          std::min<std::uint64_t>(ReadU64(data_, at, is_big_endian_), INT64_MAX));
    default:
      return u32();
  }
}

absl::StatusOr<TiffLayout> ReadTiffLayout(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const Directory directory, Directory::Read(bytes));
  if (directory.Has(kWindowsMediaPhoto)) return BadImage(kFormat, "Windows Media Photo");
  TiffLayout layout;
  layout.directory_offset = directory.offset();
  SIGLIP_ASSIGN_OR_RETURN(const std::int64_t compression,
                          directory.Value(kCompression, kUncompressed));
  if (!IsKnownCompression(compression)) {
    return BadImage(kFormat, absl::StrCat("unknown or unsupported compression ", compression));
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
  SIGLIP_RETURN_IF_ERROR(ReadOrientation(directory, layout));
  SIGLIP_RETURN_IF_ERROR(ReadSamples(directory, compression, key, layout));
  const OpenInfo* info = FindOpenInfo(key);
  layout.uses_libtiff = compression != kUncompressed;
  if (info != nullptr && layout.uses_libtiff && key.fill_order == 2) {
    key.fill_order = 1;
    info = FindOpenInfo(key);
  }
  if (info == nullptr) return BadImage(kFormat, "unknown combination of photometric and samples");
  SIGLIP_RETURN_IF_ERROR(CheckResolution(directory));
  SIGLIP_RETURN_IF_ERROR(CheckSubdirectories(bytes, directory));
  layout.mode = info->mode;
  layout.raw = std::string(info->raw);
  for (const std::uint32_t tag : {kBitsPerSample, kExtraSamples, kSampleFormat, kColorMap}) {
    const std::int64_t values = static_cast<std::int64_t>(directory.Integers(tag).size());
    layout.list_bytes += 2 * values * std::int64_t{sizeof(std::int64_t)};
  }
  if (layout.uses_libtiff) {
    AdjustForLibtiff(key, compression, layout);
    layout.has_odd_counts = HasOddCounts(directory);
    layout.repairs = directory.Repairs();
    if (!layout.repairs.empty()) layout.list_bytes += static_cast<std::int64_t>(bytes.size());
    layout.tile_width = directory.Value(kTileWidth, 0).value_or(0);
    layout.tile_height = directory.Value(kTileLength, 0).value_or(0);
  } else {
    SIGLIP_RETURN_IF_ERROR(ReadTiles(directory, layout));
  }
  SIGLIP_RETURN_IF_ERROR(ReadColorMap(directory, layout));
  return layout;
}

bool IsTiff(std::string_view bytes) {
  static constexpr std::string_view kPrefixes[] = {
      std::string_view("MM\0*", 4), std::string_view("II*\0", 4), std::string_view("MM*\0", 4),
      std::string_view("II\0*", 4), std::string_view("MM\0+", 4), std::string_view("II+\0", 4)};
  return std::find(std::begin(kPrefixes), std::end(kPrefixes), bytes.substr(0, 4)) !=
         std::end(kPrefixes);
}

namespace {

std::string_view WithoutExifPrefix(std::string_view bytes) {
  constexpr std::string_view kPrefix("Exif\0\0", 6);
  for (int i = 0; i < 2 && bytes.substr(0, kPrefix.size()) == kPrefix; ++i) {
    bytes.remove_prefix(kPrefix.size());
  }
  return bytes;
}

}  // namespace

bool IsExif(std::string_view bytes) {
  const std::string_view tiff = WithoutExifPrefix(bytes);
  return IsTiff(tiff) && tiff.size() >= 8 && tiff[2] != 43;
}

bool ExifResolutionIsCut(std::string_view exif) {
  if (!IsExif(exif)) return false;
  exif = WithoutExifPrefix(exif);
  const Directory directory = Directory::ReadExif(exif);
  const Entry* resolution = directory.Find(kXResolution);
  if (resolution == nullptr || !directory.Has(kResolutionUnit)) return false;
  std::string_view s = resolution->data;
  if (resolution->type == kAsciiType) {
    if (s.back() == '\0') s.remove_suffix(1);
    return s.empty() || (s.size() == 1 && s[0] >= '0' && s[0] <= '9');
  }
  return IsText(resolution->type) && s.size() == 1;
}

}  // namespace siglip
