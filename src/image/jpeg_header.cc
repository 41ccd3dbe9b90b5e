// Source: Pillow 13.0.0 src/PIL/JpegImagePlugin.py (JpegImageFile._open, APP, SOF, DQT,
// _read_dpi_from_exif).

#include "image/jpeg_header.h"

#include "image/byte_reader.h"
#include "image/codec.h"
#include "image/tiff_directory.h"

#include "base/status_macros.h"

#include "absl/strings/str_cat.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "JPEG";
constexpr std::string_view kExif("Exif\0\0", 6);

// What the plugin gathers beside the header: metadata that can refuse the file.
struct Metadata {
  bool has_dpi = false;  // from JFIF
  std::optional<std::string> exif;
  std::optional<std::string_view> first_profile_part;  // in byte order, since the last frame header
};

absl::Status ReadFrame(std::string_view s, std::uint32_t marker, JpegHeader& header) {
  if (s.size() < 6) return BadImage(kFormat, "start of frame is cut");
  header.height = static_cast<int>(U16Be(s, 1));
  header.width = static_cast<int>(U16Be(s, 3));
  if (U8(s, 0) != 8) {
    return BadImage(kFormat, absl::StrCat("expected 8 bits a sample, got ", U8(s, 0)));
  }
  header.layers = static_cast<int>(U8(s, 5));
  if (header.layers != 1 && header.layers != 3 && header.layers != 4) {
    return BadImage(kFormat, absl::StrCat("expected 1, 3 or 4 components, got ", header.layers));
  }
  header.progressive = marker == 0xFFC2 || marker == 0xFFC6 || marker == 0xFFCA || marker == 0xFFCE;
  header.lossless = marker == 0xFFC3;
  header.arithmetic = marker >= 0xFFC9 && marker <= 0xFFCF;
  std::int64_t max_h = 1;
  std::int64_t max_v = 1;
  std::int64_t sampling = 0;
  for (std::size_t i = 6; i < s.size(); i += 3) {
    if (i + 3 > s.size()) return BadImage(kFormat, "start of frame is cut");
    const std::int64_t h = U8(s, i + 1) >> 4;
    const std::int64_t v = U8(s, i + 1) & 15;
    max_h = std::max(max_h, h);
    max_v = std::max(max_v, v);
    sampling += h * v;
  }
  const std::int64_t mcus = ((header.width + 8 * max_h - 1) / (8 * max_h)) *
                            ((header.height + 8 * max_v - 1) / (8 * max_v));
  header.coefficient_blocks = mcus * sampling;
  return absl::OkStatus();
}

absl::Status ReadQuantization(std::string_view s) {
  while (!s.empty()) {
    const std::size_t length = U8(s, 0) / 16 == 0 ? 65 : 129;
    if (s.size() < length) return BadImage(kFormat, "quantization table is cut");
    s.remove_prefix(length);
  }
  return absl::OkStatus();
}

bool IsFrame(std::uint32_t marker) {
  return (marker >= 0xFFC0 && marker <= 0xFFCF && marker != 0xFFC4 && marker != 0xFFC8 &&
          marker != 0xFFCC) ||
         marker == 0xFFDE;
}

bool HasNoSegment(std::uint32_t marker) {
  return marker == 0xFFC8 || (marker >= 0xFFD0 && marker <= 0xFFD9) ||
         (marker >= 0xFFF0 && marker <= 0xFFFD);
}

absl::Status ReadJfif(std::string_view s, Metadata& metadata) {
  if (s.size() < 7) return BadImage(kFormat, "JFIF marker is cut");
  if (s.size() >= 12 && (U8(s, 7) == 1 || U8(s, 7) == 2)) metadata.has_dpi = true;
  return absl::OkStatus();
}

// Photoshop's blocks, the first at 14. Pillow stops at one that is cut, but for a cut right behind
// its code.
absl::Status CheckPhotoshop(std::string_view s) {
  std::size_t at = 14;
  while (at <= s.size() && s.substr(at, 4) == "8BIM") {
    at += 4;
    if (at + 2 > s.size()) break;
    const std::uint32_t code = U16Be(s, at);
    at += 2;
    if (at == s.size()) return BadImage(kFormat, "a Photoshop block is cut behind its code");
    at += 1 + U8(s, at);
    at += at & 1;
    if (at + 4 > s.size()) break;
    const std::size_t size = U32Be(s, at);
    at += 4;
    if (code == 0x03ED && std::min(size, s.size() - at) < 14) break;  // the resolution
    at += size;
    at += at & 1;
  }
  return absl::OkStatus();
}

absl::Status ReadApplicationSegment(std::uint32_t marker, std::string_view s, Metadata& metadata) {
  const auto starts_with = [s](std::string_view prefix) {
    return s.substr(0, prefix.size()) == prefix;
  };
  if (marker == 0xFFE0 && starts_with("JFIF")) return ReadJfif(s, metadata);
  if (marker == 0xFFE1 && starts_with(kExif)) {
    if (!metadata.exif) {
      metadata.exif = std::string(s);
    } else {
      metadata.exif->append(s.substr(kExif.size()));
    }
  }
  if (marker == 0xFFE2 && starts_with(std::string_view("ICC_PROFILE\0", 12))) {
    metadata.first_profile_part = std::min(metadata.first_profile_part.value_or(s), s);
  }
  if (marker == 0xFFED && starts_with(std::string_view("Photoshop 3.0\0", 14))) {
    return CheckPhotoshop(s);
  }
  if (marker == 0xFFEE && starts_with("Adobe") && s.size() < 7) {
    return BadImage(kFormat, "Adobe marker is cut");
  }
  return absl::OkStatus();
}

// The plugin sorts the parts of a colour profile at each frame header and reads how many there are.
absl::Status CheckProfile(Metadata& metadata) {
  const bool is_cut = metadata.first_profile_part && metadata.first_profile_part->size() < 14;
  metadata.first_profile_part.reset();
  return is_cut ? BadImage(kFormat, "a part of the colour profile is cut") : absl::OkStatus();
}

// The resolution comes from Exif if JFIF has none.
absl::Status CheckExif(const Metadata& metadata) {
  if (metadata.has_dpi || !metadata.exif) return absl::OkStatus();
  return ExifResolutionIsCut(*metadata.exif) ? BadImage(kFormat, "the Exif resolution is cut")
                                             : absl::OkStatus();
}

// One marker segment. Returns an error where the plugin raises one.
absl::Status ReadSegment(ByteReader& reader, std::uint32_t marker, JpegHeader& header,
                         Metadata& metadata) {
  const std::string_view length = reader.Read(2);
  if (length.size() < 2) return BadImage(kFormat, "marker segment is cut");
  const std::uint32_t size = U16Be(length, 0);
  const std::optional<std::string_view> body = reader.ReadExactly(size < 2 ? 0 : size - 2);
  if (!body) return BadImage(kFormat, "marker segment is cut");
  if (IsFrame(marker)) {
    header.frame_at = reader.position() - body->size() - 3;
    SIGLIP_RETURN_IF_ERROR(CheckProfile(metadata));
    return ReadFrame(*body, marker, header);
  }
  if (marker == 0xFFDB) return ReadQuantization(*body);
  if (marker >= 0xFFE0 && marker <= 0xFFEF) return ReadApplicationSegment(marker, *body, metadata);
  if (marker == 0xFFDA && !body->empty()) {
    header.multi_scan = header.progressive || static_cast<int>(U8(*body, 0)) != header.layers;
  }
  return absl::OkStatus();
}

}  // namespace

// The plugin's walk over the markers up to the first scan.
absl::StatusOr<JpegHeader> ReadJpegHeader(std::string_view bytes) {
  JpegHeader header;
  Metadata metadata;
  ByteReader reader(bytes);
  reader.Seek(3);
  std::uint32_t byte = 0xFF;
  while (true) {
    if (byte != 0xFF) {  // junk between the markers
      const std::string_view next = reader.Read(1);
      if (next.empty()) return BadImage(kFormat, "no scan found");
      byte = U8(next, 0);
      continue;
    }
    const std::string_view low = reader.Read(1);
    if (low.empty()) return BadImage(kFormat, "no scan found");
    const std::uint32_t marker = 0xFF00 | U8(low, 0);
    if (marker == 0xFFFF) continue;  // padding
    if (marker == 0xFF00) {
      const std::string_view next = reader.Read(1);
      if (next.empty()) return BadImage(kFormat, "no scan found");
      byte = U8(next, 0);
      continue;
    }
    if (marker < 0xFFC0) {
      return BadImage(kFormat, absl::StrCat("unknown marker 0x", absl::Hex(marker)));
    }
    if (!HasNoSegment(marker))
      SIGLIP_RETURN_IF_ERROR(ReadSegment(reader, marker, header, metadata));
    if (marker == 0xFFDA) {
      header.scan_at = reader.position();
      break;
    }
    const std::string_view next = reader.Read(1);
    if (next.empty()) return BadImage(kFormat, "no scan found");
    byte = U8(next, 0);
  }
  SIGLIP_RETURN_IF_ERROR(CheckExif(metadata));
  if (header.layers == 0) return BadImage(kFormat, "scan before the start of frame");
  if (header.width == 0 || header.height == 0) {
    return BadImage(kFormat, absl::StrCat("size ", header.width, "x", header.height));
  }
  return header;
}

}  // namespace siglip
