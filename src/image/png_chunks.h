#pragma once

// The chunk side of PNG, as Pillow's PngImagePlugin.py reads it: which chunks are checked and how,
// what is refused before and after the image data. Private to decode_png.cc.

#include "image/byte_reader.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include <cstdint>
#include <optional>
#include <string_view>

namespace siglip {

// Pillow's info["transparency"]: by tRNS a colour (or palette index) or a palette's alphas, or a
// text chunk of that name.
enum class PngTransparency { kNone, kColor, kAlphas, kText };

// What the chunks have said so far (PngStream's im_* fields). Text chunks write to the same
// dictionary as all others, by the names that they choose.
struct PngState {
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  int bit_depth = 0;   // 0 until an IHDR with a known combination came
  int color_type = 0;  // 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA
  bool interlaced = false;
  std::optional<std::string_view> palette;
  // From fcTL: the image data fill this part of the canvas.
  bool has_frame_box = false;
  std::int64_t box[4] = {0, 0, 0, 0};  // x0, y0, x1, y1
  std::optional<std::uint32_t> frame_count;
  std::optional<std::int64_t> sequence;
  bool default_image = false;
  std::int64_t text_bytes = 0;
  std::int64_t inflated_bytes = 0;  // of text and profiles, broken ones, too
  bool box_is_text = false;
  PngTransparency transparency = PngTransparency::kNone;
};

struct PngChunk {
  std::string_view type;
  std::uint32_t length = 0;
};

enum class PngEvent {
  kRead,       // the chunk's body was read and is fine
  kImageData,  // IDAT, or fdAT after its sequence number: the body is still to be read
  kEnd,        // IEND
};

// Reads length and type. InvalidArgument if they are cut or no chunk name.
absl::StatusOr<PngChunk> ReadPngChunkHead(ByteReader& reader);

// Handles one chunk as the plugin's call(); on kRead the body (given back) has been consumed, its
// checksum has not.
absl::StatusOr<PngEvent> ReadPngChunkBody(ByteReader& reader, const PngChunk& chunk,
                                          PngState& state, std::string_view* body);

// The same for who wants the picture's size alone: what may be compressed (iCCP, zTXt, iTXt) is
// consumed and neither looked at nor counted. Accepts all that ReadPngChunkBody does, and more.
absl::StatusOr<PngEvent> SkimPngChunkBody(ByteReader& reader, const PngChunk& chunk,
                                          PngState& state, std::string_view* body);

// Compares the 4 bytes at the reader with the checksum of type and body.
absl::Status CheckPngCrc(ByteReader& reader, const PngChunk& chunk, std::string_view body);

}  // namespace siglip
