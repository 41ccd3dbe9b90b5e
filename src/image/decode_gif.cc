// GIF: the first frame on its canvas. Parser and LZW decoder follow Pillow's GifImagePlugin.py and
// GifDecode.c step by step (giflib's verdicts on damaged files differ).

#include "image/byte_reader.h"
#include "image/codec.h"
#include "image/convert_rgb.h"

#include "base/status_macros.h"

#include "absl/strings/str_cat.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "GIF";
constexpr std::size_t kReadBlock = 65536;  // Pillow's ImageFile.MAXBLOCK

struct GifFrame {
  std::int64_t canvas_width = 0;
  std::int64_t canvas_height = 0;
  std::int64_t x0 = 0, y0 = 0, x1 = 0, y1 = 0;
  bool interlaced = false;
  int code_bits = 0;
  int transparent = -1;
  std::optional<std::string_view> colors;  // RGB triples; nothing: grey
  std::size_t data_position = 0;
};

absl::Status Cut() { return BadImage(kFormat, "truncated before the image data"); }

// A sub-block's content (possibly short at the end of the file); nothing for the terminator.
std::optional<std::string_view> SubBlock(ByteReader& reader) {
  const std::string_view size = reader.Read(1);
  if (size.empty() || size[0] == 0) return std::nullopt;
  return reader.Read(U8(size, 0));
}

void SkipSubBlocks(ByteReader& reader) {
  while (true) {
    const std::optional<std::string_view> block = SubBlock(reader);
    if (!block || block->empty()) return;
  }
}

// A palette in which every colour is its own index as grey counts as none.
bool IsColored(std::string_view palette) {
  for (std::size_t i = 0; i + 2 < palette.size(); i += 3) {
    const std::uint32_t index = static_cast<std::uint32_t>(i / 3);
    if (U8(palette, i) != index || U8(palette, i + 1) != index || U8(palette, i + 2) != index) {
      return true;
    }
  }
  return false;
}

absl::Status Extension(ByteReader& reader, GifFrame& frame) {
  const std::string_view label = reader.Read(1);
  std::optional<std::string_view> block = SubBlock(reader);
  if (label.empty()) return Cut();
  const std::uint32_t kind = U8(label, 0);
  if (kind == 249 && block) {  // graphic control
    if (block->size() < 3) return Cut();
    if ((U8(*block, 0) & 1) != 0) {
      if (block->size() < 4) return Cut();
      frame.transparent = static_cast<int>(U8(*block, 3));
    }
  } else if (kind == 254) {  // comment
    while (block && !block->empty()) block = SubBlock(reader);
    return absl::OkStatus();
  } else if (kind == 255 && block && block->substr(0, 11) == "NETSCAPE2.0") {
    SubBlock(reader);  // the loop count; if it is missing the walk below starts one block later
  }
  SkipSubBlocks(reader);
  return absl::OkStatus();
}

absl::Status ImageDescriptor(ByteReader& reader, std::optional<std::string_view> global_colors,
                             GifFrame& frame) {
  const std::optional<std::string_view> s = reader.ReadExactly(9);
  if (!s) return Cut();
  frame.x0 = U16Le(*s, 0);
  frame.y0 = U16Le(*s, 2);
  frame.x1 = frame.x0 + U16Le(*s, 4);
  frame.y1 = frame.y0 + U16Le(*s, 6);
  frame.canvas_width = std::max(frame.canvas_width, frame.x1);
  frame.canvas_height = std::max(frame.canvas_height, frame.y1);
  const std::uint32_t flags = U8(*s, 8);
  frame.interlaced = (flags & 64) != 0;
  frame.colors = global_colors;
  if ((flags & 128) != 0) {
    const std::string_view local = reader.Read(std::size_t{3} << ((flags & 7) + 1));
    if (IsColored(local)) {
      frame.colors = local;
    } else if (!global_colors) {
      frame.colors.reset();
    }
    // An identity-grey local palette shows the global colours: Pillow's quirk.
  }
  const std::optional<std::string_view> bits = reader.ReadExactly(1);
  if (!bits) return Cut();
  frame.code_bits = static_cast<int>(U8(*bits, 0));
  frame.data_position = reader.position();
  return absl::OkStatus();
}

absl::StatusOr<GifFrame> ReadFrame(std::string_view bytes) {
  ByteReader reader(bytes);
  const std::string_view screen = reader.Read(13);
  if (screen.size() < 13) return Cut();
  GifFrame frame;
  frame.canvas_width = U16Le(screen, 6);
  frame.canvas_height = U16Le(screen, 8);
  const std::uint32_t flags = U8(screen, 10);
  std::optional<std::string_view> global_colors;
  if ((flags & 128) != 0) {
    const std::string_view palette = reader.Read(std::size_t{3} << ((flags & 7) + 1));
    if (IsColored(palette)) global_colors = palette;
  }
  while (true) {
    const std::string_view s = reader.Read(1);
    if (s.empty() || s[0] == ';') return BadImage(kFormat, "no image in the file");
    if (s[0] == '!') {
      SIGLIP_RETURN_IF_ERROR(Extension(reader, frame));
    } else if (s[0] == ',') {
      SIGLIP_RETURN_IF_ERROR(ImageDescriptor(reader, global_colors, frame));
      break;
    }
  }
  if (frame.x1 <= frame.x0 || frame.y1 <= frame.y0) {
    return BadImage(kFormat,
                    absl::StrCat("frame of ", frame.x1 - frame.x0, "x", frame.y1 - frame.y0));
  }
  return frame;
}

absl::StatusOr<ImageHeader> ReadHeader(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const GifFrame frame, ReadFrame(bytes));
  ImageHeader header;
  header.format = std::string(kFormat);
  header.width = frame.canvas_width;
  header.height = frame.canvas_height;
  header.working_set_bytes = header.width * header.height * 4 + (1 << 17);
  return header;
}

// LZW data of sub-blocks -> indices of one frame, row by row in stored order.
class LzwDecoder {
 public:
  LzwDecoder(std::string_view data, int bits) : data_(data), clear_(1 << bits), bits_(bits) {
    Restart();
  }

  enum class Result { kString, kTruncated, kBroken };

  // The next run of indices.
  Result Next(const std::uint8_t** run, int* size) {
    if (pending_ < kStack) {
      *run = stack_ + pending_;
      *size = kStack - pending_;
      pending_ = kStack;
      return Result::kString;
    }
    while (true) {
      int code;
      if (!ReadCode(&code)) return Result::kTruncated;
      if (code == clear_) {
        if (!is_first_) Restart();
        continue;
      }
      if (code == clear_ + 1) {
        // End of information before the frame is full: Pillow carries on with what follows in the
        // next 64 KiB of the file.
        if (!ReadMore()) return Result::kTruncated;
        if (pending_ < kStack) return Next(run, size);
        continue;
      }
      if (is_first_) {
        if (code > clear_) return Result::kBroken;
        last_data_ = static_cast<std::uint8_t>(code);
        last_code_ = code;
        is_first_ = false;
      } else if (!Expand(code)) {
        return Result::kBroken;
      }
      *run = &last_data_;
      *size = 1;
      return Result::kString;
    }
  }

 private:
  static constexpr int kTable = 4096;
  static constexpr int kStack = 4096;

  void Restart() {
    next_ = clear_ + 2;
    code_size_ = bits_ + 1;
    pending_ = kStack;
    is_first_ = true;
  }

  // Pillow's decoder sees the file in pieces of 64 KiB.
  bool ReadMore() {
    if (limit_ >= data_.size()) return false;
    limit_ = std::min(limit_ + kReadBlock, data_.size());
    return true;
  }

  bool ReadCode(int* code) {
    while (bit_count_ < code_size_) {
      if (block_left_ > 0) {
        bit_buffer_ |= U8(data_, position_++) << bit_count_;
        bit_count_ += 8;
        --block_left_;
        continue;
      }
      // A sub-block is started only when all of it is there.
      while (limit_ - position_ < 1 || limit_ - position_ < U8(data_, position_) + 1) {
        if (!ReadMore()) return false;
      }
      block_left_ = static_cast<int>(U8(data_, position_++));
    }
    *code = static_cast<int>(bit_buffer_ & ((1U << code_size_) - 1));
    bit_buffer_ >>= code_size_;
    bit_count_ -= code_size_;
    return true;
  }

  // Puts the string of `code`, all but its first index, on the stack; the first into last_data_.
  bool Expand(const int this_code) {
    int code = this_code;
    if (code > next_) return false;
    if (code == next_) {
      if (pending_ <= 0) return false;
      stack_[--pending_] = last_data_;
      code = last_code_;
    }
    while (code >= clear_) {
      if (pending_ <= 0 || code >= kTable) return false;
      stack_[--pending_] = data_of_[code];
      code = link_[code];
    }
    last_data_ = static_cast<std::uint8_t>(code);
    if (next_ < kTable) {
      data_of_[next_] = last_data_;
      link_[next_] = static_cast<std::uint16_t>(last_code_);
      if (next_ == (1 << code_size_) - 1 && code_size_ < 12) ++code_size_;
      ++next_;
    }
    last_code_ = this_code;
    return true;
  }

  std::string_view data_;
  const int clear_;
  const int bits_;
  std::size_t limit_ = 0;
  std::size_t position_ = 0;
  int block_left_ = 0;
  std::uint32_t bit_buffer_ = 0;
  int bit_count_ = 0;
  int next_ = 0;
  int code_size_ = 0;
  bool is_first_ = true;
  std::uint8_t last_data_ = 0;
  int last_code_ = 0;
  int pending_ = kStack;
  std::uint8_t stack_[kStack];
  std::uint8_t data_of_[kTable] = {};
  std::uint16_t link_[kTable] = {};
};

// The rows of a frame in the order in which they are stored.
class RowOrder {
 public:
  RowOrder(std::int64_t height, bool interlaced)
      : height_(height), pass_(interlaced ? 0 : 3), step_(interlaced ? 8 : 1) {}

  std::int64_t row() const { return row_; }

  // False after the last.
  bool Advance() {
    static constexpr std::int64_t kStart[] = {4, 2, 1};
    static constexpr std::int64_t kStep[] = {8, 4, 2};
    row_ += step_;
    while (row_ >= height_) {
      if (pass_ >= 3) return false;
      row_ = kStart[pass_];
      step_ = kStep[pass_];
      ++pass_;
    }
    return true;
  }

 private:
  std::int64_t height_;
  int pass_;
  std::int64_t step_;
  std::int64_t row_ = 0;
};

absl::Status DecodeIndices(std::string_view data, const GifFrame& frame, std::uint8_t* canvas) {
  if (frame.code_bits > 12) {
    return BadImage(kFormat, absl::StrCat("code size ", frame.code_bits));
  }
  LzwDecoder decoder(data, frame.code_bits);
  RowOrder order(frame.y1 - frame.y0, frame.interlaced);
  const std::int64_t width = frame.x1 - frame.x0;
  std::int64_t x = 0;
  while (true) {
    const std::uint8_t* run = nullptr;
    int size = 0;
    const LzwDecoder::Result result = decoder.Next(&run, &size);
    if (result == LzwDecoder::Result::kTruncated) return BadImage(kFormat, "truncated image data");
    if (result == LzwDecoder::Result::kBroken) return BadImage(kFormat, "broken image data");
    while (size > 0) {
      const std::int64_t count = std::min<std::int64_t>(size, width - x);
      std::memcpy(canvas + (frame.y0 + order.row()) * frame.canvas_width + frame.x0 + x, run,
                  static_cast<std::size_t>(count));
      run += count;
      size -= static_cast<int>(count);
      x += count;
      if (x < width) continue;
      x = 0;
      if (!order.Advance()) return absl::OkStatus();
    }
  }
}

absl::StatusOr<RgbImage> Decode(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const GifFrame frame, ReadFrame(bytes));
  Palette palette;
  if (frame.colors) {
    std::memcpy(palette.rgb, frame.colors->data(),
                std::min<std::size_t>(frame.colors->size(), 768));
  } else {
    for (int i = 0; i < 256; ++i) std::memset(palette.rgb[i], i, 3);
  }
  RgbImage image = AllocateRgb(frame.canvas_width, frame.canvas_height);
  const std::size_t pixels = image.pixels.size() / 3;
  PixelBuffer canvas(pixels);
  std::memset(canvas.data(), std::max(frame.transparent, 0), pixels);
  SIGLIP_RETURN_IF_ERROR(DecodeIndices(bytes.substr(frame.data_position), frame, canvas.data()));
  PaletteToRgb(canvas.data(), pixels, palette, image.pixels.data());
  return image;
}

bool Accepts(std::string_view bytes) {
  return bytes.substr(0, 6) == "GIF87a" || bytes.substr(0, 6) == "GIF89a";
}

}  // namespace

const Codec kGifCodec = {kFormat, Accepts, ReadHeader, Decode};

}  // namespace siglip
