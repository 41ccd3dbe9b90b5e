// Source: Pillow 13.0.0 src/PIL/PngImagePlugin.py (ChunkStream, PngStream).

#include "image/png_chunks.h"

#include "image/codec.h"

#include "base/status_macros.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <string>

#include <zlib.h>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "PNG";
constexpr std::size_t kMaxTextChunk = 1 << 20;            // Pillow's MAX_TEXT_CHUNK
constexpr std::int64_t kMaxTextBytes = 64 * (1LL << 20);  // Pillow's MAX_TEXT_MEMORY

// Pillow counts text alone, and no broken text: a file may have thousands of profiles. This is a
// stated exception, above what text may be.
constexpr std::int64_t kMaxInflatedBytes = 2 * kMaxTextBytes;

enum class Inflated { kOk, kBroken, kTooLarge };

// Inflates at most kMaxTextChunk bytes (_safe_zlib_decompress). kTooLarge if input is left then, or
// if all chunks so far are more than a file may have.
Inflated InflateText(std::string_view data, PngState& state, std::string* text) {
  z_stream stream = {};
  if (inflateInit(&stream) != Z_OK) throw std::bad_alloc();
  const std::unique_ptr<z_stream, int (*)(z_stream*)> end(&stream, inflateEnd);
  text->clear();
  Bytef chunk[16384];
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  int result = Z_OK;
  while (text->size() < kMaxTextChunk && result != Z_STREAM_END) {
    const std::size_t room = std::min(sizeof(chunk), kMaxTextChunk - text->size());
    stream.next_out = chunk;
    stream.avail_out = static_cast<uInt>(room);
    result = inflate(&stream, Z_SYNC_FLUSH);
    if (result != Z_OK && result != Z_BUF_ERROR && result != Z_STREAM_END) break;
    text->append(reinterpret_cast<const char*>(chunk), room - stream.avail_out);
    if (stream.avail_out != 0 && stream.avail_in == 0) break;  // the input ran out
  }
  const bool left = stream.avail_in != 0;
  if (result == Z_MEM_ERROR) throw std::bad_alloc();
  state.inflated_bytes += static_cast<std::int64_t>(stream.total_out);
  if (state.inflated_bytes > kMaxInflatedBytes) return Inflated::kTooLarge;
  if (result != Z_OK && result != Z_BUF_ERROR && result != Z_STREAM_END) return Inflated::kBroken;
  return result != Z_STREAM_END && left ? Inflated::kTooLarge : Inflated::kOk;
}

// The number of code points, or nothing if it is not strict UTF-8.
std::optional<std::int64_t> Utf8Length(std::string_view s) {
  std::int64_t count = 0;
  for (std::size_t i = 0; i < s.size(); ++count) {
    const std::uint32_t lead = U8(s, i);
    const int extra = lead < 0x80                     ? 0
                      : (lead >= 0xC2 && lead < 0xE0) ? 1
                      : (lead & 0xF0) == 0xE0         ? 2
                      : (lead >= 0xF0 && lead < 0xF5) ? 3
                                                      : -1;
    if (extra < 0 || i + static_cast<std::size_t>(extra) >= s.size()) return std::nullopt;
    for (int j = 1; j <= extra; ++j) {
      if ((U8(s, i + static_cast<std::size_t>(j)) & 0xC0) != 0x80) return std::nullopt;
    }
    if (extra >= 2) {
      const std::uint32_t second = U8(s, i + 1);
      if (lead == 0xE0 && second < 0xA0) return std::nullopt;
      if (lead == 0xED && second >= 0xA0) return std::nullopt;
      if (lead == 0xF0 && second < 0x90) return std::nullopt;
      if (lead == 0xF4 && second >= 0x90) return std::nullopt;
    }
    i += static_cast<std::size_t>(extra) + 1;
  }
  return count;
}

absl::Status TooShort(std::string_view type, std::size_t expected, std::size_t got) {
  return BadImage(kFormat, absl::StrCat("chunk ", std::string(type), ": expected at least ",
                                        expected, " bytes, got ", got));
}

// `length` code points of text under a key that is not empty.
absl::Status AddText(std::string_view key, std::int64_t length, PngState& state) {
  if (key == "interlace") state.interlaced = length > 0;
  if (key == "default_image") state.default_image = length > 0;
  if (key == "transparency") state.transparency = PngTransparency::kText;
  if (key == "bbox") {
    state.has_frame_box = true;
    state.box_is_text = true;
  }
  state.text_bytes += length;
  if (state.text_bytes > kMaxTextBytes) {
    return BadImage(kFormat, absl::StrCat("text chunks hold more than ", kMaxTextBytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status TextTooLarge(std::string_view type) {
  return BadImage(
      kFormat, absl::StrCat("chunk ", std::string(type), " inflates to more than ", kMaxTextChunk,
                            " bytes, or all to more than ", kMaxInflatedBytes));
}

absl::Status BadMethod(std::string_view type) {
  return BadImage(kFormat,
                  absl::StrCat("chunk ", std::string(type), ": unknown compression method"));
}

bool IsKnownCombination(int depth, int color_type) {
  switch (color_type) {
    case 0:
      return depth == 1 || depth == 2 || depth == 4 || depth == 8 || depth == 16;
    case 3:
      return depth == 1 || depth == 2 || depth == 4 || depth == 8;
    case 2:
    case 4:
    case 6:
      return depth == 8 || depth == 16;
    default:
      return false;
  }
}

absl::Status Header(std::string_view s, PngState& state) {
  if (s.size() < 13) return TooShort("IHDR", 13, s.size());
  state.width = U32Be(s, 0);
  state.height = U32Be(s, 4);
  const int depth = static_cast<int>(U8(s, 8));
  const int color_type = static_cast<int>(U8(s, 9));
  if (IsKnownCombination(depth, color_type)) {
    state.bit_depth = depth;
    state.color_type = color_type;
  }
  if (U8(s, 12) != 0) state.interlaced = true;
  if (U8(s, 11) != 0) return BadImage(kFormat, "unknown filter category");
  return absl::OkStatus();
}

absl::Status Profile(std::string_view s, PngState& state) {
  // Without a NUL Python's find() gives -1 and the method is read from the first byte.
  const std::size_t nul = s.find('\0');
  const std::size_t method = nul == std::string_view::npos ? 0 : nul + 1;
  if (method >= s.size()) return TooShort("iCCP", method + 1, s.size());
  if (s[method] != 0) return BadMethod("iCCP");
  std::string text;
  return InflateText(s.substr(method + 1), state, &text) == Inflated::kTooLarge
             ? TextTooLarge("iCCP")
             : absl::OkStatus();
}

absl::Status PlainText(std::string_view s, PngState& state) {
  const std::size_t nul = s.find('\0');
  const std::string_view key = s.substr(0, nul);
  const std::size_t value = nul == std::string_view::npos ? 0 : s.size() - nul - 1;
  return key.empty() ? absl::OkStatus() : AddText(key, static_cast<std::int64_t>(value), state);
}

absl::Status CompressedText(std::string_view s, PngState& state) {
  const std::size_t nul = s.find('\0');
  const std::string_view key = s.substr(0, nul);
  std::string_view value = nul == std::string_view::npos ? std::string_view() : s.substr(nul + 1);
  if (!value.empty() && value[0] != 0) return BadMethod("zTXt");
  if (!value.empty()) value.remove_prefix(1);
  std::string text;
  const Inflated result = InflateText(value, state, &text);
  if (result == Inflated::kTooLarge) return TextTooLarge("zTXt");
  if (result == Inflated::kBroken) text.clear();
  return key.empty() ? absl::OkStatus()
                     : AddText(key, static_cast<std::int64_t>(text.size()), state);
}

// Splits off what is before the next NUL.
std::optional<std::string_view> TakeUntilNul(std::string_view& s) {
  const std::size_t nul = s.find('\0');
  if (nul == std::string_view::npos) return std::nullopt;
  const std::string_view part = s.substr(0, nul);
  s.remove_prefix(nul + 1);
  return part;
}

absl::Status InternationalText(std::string_view s, PngState& state) {
  const std::optional<std::string_view> key = TakeUntilNul(s);
  if (!key || s.size() < 2) return absl::OkStatus();
  const bool is_compressed = s[0] != 0;
  const bool method_is_known = s[1] == 0;
  s.remove_prefix(2);
  const std::optional<std::string_view> language = TakeUntilNul(s);
  if (!language) return absl::OkStatus();
  const std::optional<std::string_view> translated_key = TakeUntilNul(s);
  if (!translated_key) return absl::OkStatus();
  std::string text;
  if (is_compressed) {
    if (!method_is_known) return absl::OkStatus();
    const Inflated result = InflateText(s, state, &text);
    if (result == Inflated::kTooLarge) return TextTooLarge("iTXt");
    if (result == Inflated::kBroken) return absl::OkStatus();
    s = text;
  }
  const std::optional<std::int64_t> length = Utf8Length(s);
  if (!length || !Utf8Length(*language) || !Utf8Length(*translated_key)) return absl::OkStatus();
  return AddText(*key, *length, state);
}

// Pillow's ^\xff*\x00\xff*$, whose end may be a line feed's start.
bool IsOneClearEntry(std::string_view s) {
  if (!s.empty() && s.back() == '\n') s.remove_suffix(1);
  const std::size_t other = s.find_first_not_of('\xff');
  return other != std::string_view::npos && s[other] == '\0' &&
         s.find_first_not_of('\xff', other + 1) == std::string_view::npos;
}

absl::Status Transparency(std::string_view s, PngState& state) {
  if (state.bit_depth == 0 || state.color_type >= 4) return absl::OkStatus();
  if (state.color_type == 3) {
    state.transparency = IsOneClearEntry(s) ? PngTransparency::kColor : PngTransparency::kAlphas;
    return absl::OkStatus();
  }
  const std::size_t expected = state.color_type == 2 ? 6 : 2;
  if (s.size() < expected) return TooShort("tRNS", expected, s.size());
  state.transparency = PngTransparency::kColor;
  return absl::OkStatus();
}

absl::Status AnimationControl(std::string_view s, PngState& state) {
  if (s.size() < 8) return TooShort("acTL", 8, s.size());
  if (state.frame_count) {
    state.frame_count.reset();
    return absl::OkStatus();
  }
  const std::uint32_t frames = U32Be(s, 0);
  if (frames != 0 && frames <= 0x80000000U) state.frame_count = frames;
  return absl::OkStatus();
}

absl::Status CheckSequence(std::string_view s, PngState& state, bool may_start) {
  const std::int64_t sequence = U32Be(s, 0);
  const bool follows =
      state.sequence ? *state.sequence == sequence - 1 : may_start && sequence == 0;
  if (!follows) return BadImage(kFormat, "APNG frame sequence error");
  state.sequence = sequence;
  return absl::OkStatus();
}

absl::Status FrameControl(std::string_view s, PngState& state) {
  if (s.size() < 26) return TooShort("fcTL", 26, s.size());
  SIGLIP_RETURN_IF_ERROR(CheckSequence(s, state, true));
  const std::int64_t width = U32Be(s, 4);
  const std::int64_t height = U32Be(s, 8);
  const std::int64_t x = U32Be(s, 12);
  const std::int64_t y = U32Be(s, 16);
  if (x + width > state.width || y + height > state.height) {
    return BadImage(kFormat, "APNG frame is outside the canvas");
  }
  state.has_frame_box = true;
  state.box_is_text = false;
  state.box[0] = x;
  state.box[1] = y;
  state.box[2] = x + width;
  state.box[3] = y + height;
  return absl::OkStatus();
}

absl::Status HandleBody(std::string_view type, std::string_view s, PngState& state) {
  if (type == "IHDR") return Header(s, state);
  if (type == "PLTE") {
    if (state.bit_depth != 0 && state.color_type == 3) state.palette = s;
    return absl::OkStatus();
  }
  if (type == "tRNS") return Transparency(s, state);
  if (type == "iCCP") return Profile(s, state);
  if (type == "tEXt") return PlainText(s, state);
  if (type == "zTXt") return CompressedText(s, state);
  if (type == "iTXt") return InternationalText(s, state);
  if (type == "acTL") return AnimationControl(s, state);
  if (type == "fcTL") return FrameControl(s, state);
  const std::size_t least = type == "gAMA"   ? 4
                            : type == "cHRM" ? 32
                            : type == "sRGB" ? 1
                            : type == "pHYs" ? 9
                                             : 0;
  return s.size() < least ? TooShort(type, least, s.size()) : absl::OkStatus();
}

absl::Status TakeBody(ByteReader& reader, const PngChunk& chunk, std::string_view* body) {
  const std::optional<std::string_view> s = reader.ReadExactly(chunk.length);
  if (!s) {
    return BadImage(kFormat, absl::StrCat("chunk ", std::string(chunk.type), ": expected ",
                                          chunk.length, " bytes, got ", reader.remaining()));
  }
  *body = *s;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PngChunk> ReadPngChunkHead(ByteReader& reader) {
  const std::string_view head = reader.Read(8);
  if (head.size() < 8) return BadImage(kFormat, "a chunk's head is cut");
  const std::string_view type = head.substr(4);
  for (const char c : type) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '_') {
      return BadImage(kFormat, "a chunk's name has a byte that is no letter");
    }
  }
  return PngChunk{type, U32Be(head, 0)};
}

absl::StatusOr<PngEvent> ReadPngChunkBody(ByteReader& reader, const PngChunk& chunk,
                                          PngState& state, std::string_view* body) {
  if (chunk.type == "IEND") return PngEvent::kEnd;
  // Image data before a usable header are an unknown chunk to the plugin.
  if (chunk.type == "IDAT" && state.bit_depth != 0) {
    if (!state.has_frame_box && state.frame_count) state.default_image = true;
    return PngEvent::kImageData;
  }
  if (chunk.type == "fdAT") {
    if (chunk.length < 4) return TooShort("fdAT", 4, chunk.length);
    const std::optional<std::string_view> sequence = reader.ReadExactly(4);
    if (!sequence) return BadImage(kFormat, "truncated");
    SIGLIP_RETURN_IF_ERROR(CheckSequence(*sequence, state, false));
    return PngEvent::kImageData;
  }
  SIGLIP_RETURN_IF_ERROR(TakeBody(reader, chunk, body));
  SIGLIP_RETURN_IF_ERROR(HandleBody(chunk.type, *body, state));
  return PngEvent::kRead;
}

absl::StatusOr<PngEvent> SkimPngChunkBody(ByteReader& reader, const PngChunk& chunk,
                                          PngState& state, std::string_view* body) {
  if (chunk.type != "iCCP" && chunk.type != "zTXt" && chunk.type != "iTXt") {
    return ReadPngChunkBody(reader, chunk, state, body);
  }
  SIGLIP_RETURN_IF_ERROR(TakeBody(reader, chunk, body));
  return PngEvent::kRead;
}

absl::Status CheckPngCrc(ByteReader& reader, const PngChunk& chunk, std::string_view body) {
  const std::string_view stored = reader.Read(4);
  const auto* type = reinterpret_cast<const Bytef*>(chunk.type.data());
  const auto* data = reinterpret_cast<const Bytef*>(body.data());
  uLong crc = crc32_z(0, type, chunk.type.size());
  if (!body.empty()) crc = crc32_z(crc, data, body.size());
  if (stored.size() < 4 || U32Be(stored, 0) != crc) {
    return BadImage(kFormat, absl::StrCat("wrong checksum of chunk ", std::string(chunk.type)));
  }
  return absl::OkStatus();
}

}  // namespace siglip
