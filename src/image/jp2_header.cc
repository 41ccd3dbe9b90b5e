#include "image/jp2_header.h"

#include "image/box.h"
#include "image/byte_reader.h"
#include "image/codec.h"

#include "base/status_macros.h"

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "JPEG2000";
constexpr std::string_view kCodestream("\xff\x4f\xff\x51", 4);
constexpr std::string_view kSignature("\0\0\0\x0cjP  \r\n\x87\n", 12);

absl::Status Cut() { return BadImage(kFormat, "truncated header"); }

// The SIZ segment, the reader just behind its marker.
absl::Status ReadSize(ByteReader& reader, Jp2Header& header) {
  const std::optional<std::string_view> length = reader.ReadExactly(2);
  if (!length) return Cut();
  const std::uint32_t size = U16Be(*length, 0);
  if (size < 38) return BadImage(kFormat, absl::StrCat("SIZ segment of ", size, " bytes"));
  const std::string_view s = reader.Read(size - 2);  // from Rsiz on
  if (s.size() < 36) return Cut();
  header.width = std::int64_t{U32Be(s, 2)} - U32Be(s, 10);
  header.height = std::int64_t{U32Be(s, 6)} - U32Be(s, 14);
  const std::uint32_t components = U16Be(s, 34);
  if (components == 1) {
    if (s.size() < 37) return Cut();
    header.mode = (U8(s, 36) & 0x7F) + 1 > 8 ? "I;16" : "L";
  } else if (components >= 2 && components <= 4) {
    header.mode = components == 2 ? "LA" : (components == 3 ? "RGB" : "RGBA");
  } else {
    return BadImage(kFormat, absl::StrCat(components, " components"));
  }
  return absl::OkStatus();
}

// The plugin walks the main header for a comment and refuses segments that are too short.
absl::Status CheckMainHeader(ByteReader& reader) {
  while (true) {
    const std::string_view marker = reader.Read(2);
    if (marker.empty()) return absl::OkStatus();
    if (marker.size() < 2) return Cut();
    if (U8(marker, 1) == 0x90 || U8(marker, 1) == 0xD9) return absl::OkStatus();
    const std::optional<std::string_view> length = reader.ReadExactly(2);
    if (!length) return Cut();
    if (U16Be(*length, 0) < 2) return BadImage(kFormat, "a marker segment is too short");
    if (U8(marker, 1) == 0x64) return absl::OkStatus();
    reader.Read(U16Be(*length, 0) - 2);
  }
}

struct Box {
  std::string_view type;
  std::string_view body;
};

// The next box; its body ends at `end` at most.
absl::StatusOr<Box> ReadBox(ByteReader& reader, bool must_fit) {
  const std::optional<BoxHead> head = ReadBoxHead(reader);
  if (!head) return Cut();
  if (head->size < head->head_bytes) return BadImage(kFormat, "invalid box length");
  const std::uint64_t length = head->size - head->head_bytes;
  if (must_fit && length > reader.remaining()) return BadImage(kFormat, "invalid box length");
  Box box;
  box.type = head->type;
  box.body = reader.Read(static_cast<std::size_t>(std::min<std::uint64_t>(length, SIZE_MAX)));
  if (box.type == "jp2h" && box.body.size() < length) return Cut();
  return box;
}

struct ColorState {
  std::uint32_t components = 0;
  char color = '\0';     // '1', 'L', 'K' (CMYK) or nothing known
  bool is_told = false;  // by the first colour box that counts
};

absl::Status ReadImageHeaderBox(std::string_view s, Jp2Header& header, ColorState& state) {
  if (s.size() < 11) return Cut();
  header.height = U32Be(s, 0);
  header.width = U32Be(s, 4);
  state.components = U16Be(s, 8);
  const bool is_deep = (U8(s, 10) & 0x7F) > 8;
  switch (state.components) {
    case 1:
      header.mode = is_deep ? "I;16" : "L";
      break;
    case 2:
      header.mode = "LA";
      break;
    case 3:
      header.mode = "RGB";
      break;
    case 4:
      header.mode = "RGBA";
      break;
    default:
      break;
  }
  return absl::OkStatus();
}

absl::Status ReadColorBox(std::string_view s, Jp2Header& header, ColorState& state) {
  if (s.size() < 7) return Cut();
  const std::uint32_t method = U8(s, 0);
  // OpenJPEG takes the first box that names a space or holds a profile.
  const bool counts = !state.is_told && (method == 1 || method == 2);
  state.is_told = state.is_told || counts;
  if (method != 1) return absl::OkStatus();
  const std::uint32_t space = U32Be(s, 3);
  if (counts) header.color_space = space;
  if (space == 0 || space == 15) {
    state.color = '1';
  } else if (space == 12) {
    state.color = 'K';
    if (state.components == 4) header.mode = "CMYK";
  } else if (space == 17) {
    state.color = 'L';
  }
  return absl::OkStatus();
}

// Pillow's ImagePalette of colours of so many bytes each. An entry has 4 of them or 3, of which the
// first 3 become red, green and blue, be they CMYK.
class PaletteBuilder {
 public:
  explicit PaletteBuilder(std::size_t channels) : entry_(channels == 4 ? 4 : 3) {}

  // getcolor(): false if there is no room. Colours that are known share an entry, so later ones
  // move down; the palette may come after each of many image headers, so each is looked up once.
  bool Add(std::string_view color) {
    if (!known_.insert(color).second) return true;
    const std::size_t entry = bytes_.size() / entry_;
    if (entry >= 256) return false;
    // An entry that is begun is overwritten, and the colours are told anew, entry by entry.
    if (entry * entry_ < bytes_.size()) known_ = {color};
    bytes_.replace(entry * entry_, std::string::npos, color);
    return true;
  }

  // False if it has grown too large.
  bool CopyTo(Palette& palette) const {
    const std::size_t entries = bytes_.size() / entry_;
    if (entries > 256) return false;
    for (std::size_t i = 0; i < entries; ++i) {
      std::memcpy(palette.rgb[i], bytes_.data() + i * entry_, 3);
    }
    return true;
  }

 private:
  const std::size_t entry_;
  std::string bytes_;
  absl::flat_hash_set<std::string_view> known_;
};

absl::Status ReadPaletteBox(std::string_view s, Jp2Header& header, const ColorState& state) {
  if ((header.mode != "L" && header.mode != "LA") || state.color == '1' || state.color == 'L') {
    return absl::OkStatus();
  }
  if (s.size() < 3) return Cut();
  const std::size_t entries = U16Be(s, 0);
  const std::size_t channels = U8(s, 2);
  if (s.size() < 3 + channels) return Cut();
  for (std::size_t i = 0; i < channels; ++i) {
    if (U8(s, 3 + i) > 8) return absl::OkStatus();
  }
  s.remove_prefix(3 + channels);
  if (s.size() < entries * channels) return Cut();
  PaletteBuilder builder(channels);
  for (std::size_t i = 0; i < entries; ++i) {
    if (!builder.Add(s.substr(i * channels, channels))) {
      return BadImage(kFormat, "palette of more than 256 colours");
    }
  }
  if (!builder.CopyTo(header.palette)) return BadImage(kFormat, "palette of too many bytes");
  header.mode = header.mode == "L" ? "P" : "PA";
  return absl::OkStatus();
}

// The resolution is not used, but a box without one that can be read is refused.
absl::Status CheckResolutionBox(std::string_view bytes) {
  ByteReader reader(bytes);
  do {
    SIGLIP_ASSIGN_OR_RETURN(const Box box, ReadBox(reader, true));
    if (box.type == "resc") return box.body.size() < 10 ? Cut() : absl::OkStatus();
  } while (reader.remaining() > 0);
  return absl::OkStatus();
}

absl::Status ReadHeaderBoxes(std::string_view bytes, Jp2Header& header) {
  ByteReader reader(bytes);
  ColorState state;
  bool has_size = false;
  while (reader.remaining() > 0) {
    SIGLIP_ASSIGN_OR_RETURN(const Box box, ReadBox(reader, true));
    if (box.type == "ihdr") {
      SIGLIP_RETURN_IF_ERROR(ReadImageHeaderBox(box.body, header, state));
      has_size = true;
    } else if (box.type == "colr") {
      SIGLIP_RETURN_IF_ERROR(ReadColorBox(box.body, header, state));
    } else if (box.type == "pclr") {
      SIGLIP_RETURN_IF_ERROR(ReadPaletteBox(box.body, header, state));
    } else if (box.type == "res ") {
      SIGLIP_RETURN_IF_ERROR(CheckResolutionBox(box.body));
    }
  }
  if (!has_size || header.mode.empty()) return BadImage(kFormat, "malformed JP2 header");
  return absl::OkStatus();
}

absl::Status ReadBoxes(ByteReader& reader, Jp2Header& header) {
  while (true) {
    SIGLIP_ASSIGN_OR_RETURN(const Box box, ReadBox(reader, false));
    if (box.type != "jp2h") continue;
    SIGLIP_RETURN_IF_ERROR(ReadHeaderBoxes(box.body, header));
    break;
  }
  const std::string_view next = reader.Read(12);
  if (next.size() == 12 && next.substr(4, 4) == "jp2c" && next.substr(8) == kCodestream) {
    Jp2Header ignored;
    SIGLIP_RETURN_IF_ERROR(ReadSize(reader, ignored));
    return CheckMainHeader(reader);
  }
  return absl::OkStatus();
}

}  // namespace

bool IsJp2(std::string_view bytes) {
  return bytes.substr(0, 4) == kCodestream || bytes.substr(0, 12) == kSignature;
}

absl::StatusOr<Jp2Header> ReadJp2Header(std::string_view bytes) {
  Jp2Header header;
  ByteReader reader(bytes);
  header.is_codestream = bytes.substr(0, 4) == kCodestream;
  if (header.is_codestream) {
    reader.Seek(kCodestream.size());
    SIGLIP_RETURN_IF_ERROR(ReadSize(reader, header));
    SIGLIP_RETURN_IF_ERROR(CheckMainHeader(reader));
  } else {
    reader.Seek(kSignature.size());
    SIGLIP_RETURN_IF_ERROR(ReadBoxes(reader, header));
  }
  if (header.width <= 0 || header.height <= 0) {
    return BadImage(kFormat, absl::StrCat("size ", header.width, "x", header.height));
  }
  return header;
}

}  // namespace siglip
