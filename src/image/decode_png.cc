// PNG: chunks by png_chunks.cc, data by zlib and the filters here, row by row in the order and with
// the stopping rules of Pillow's ZipDecode.c (a stream that ends early on a row's border leaves the
// rest black; one that ends within a row is refused; checksums of IDAT are not looked at). libpng
// is not used because its verdicts on damaged files differ from these.

#include "image/byte_reader.h"
#include "image/codec.h"
#include "image/convert_rgb.h"
#include "image/png_chunks.h"

#include "base/status_macros.h"

#include "absl/strings/str_cat.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include <zlib.h>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "PNG";
constexpr std::string_view kSignature = "\x89PNG\r\n\x1a\n";
constexpr std::size_t kReadBlock = 65536;  // Pillow's ImageFile.MAXBLOCK

int Channels(const PngState& png) {
  switch (png.color_type) {
    case 2:
      return 3;
    case 4:
      return 2;
    case 6:
      return 4;
    default:
      return 1;
  }
}

int BitsPerPixel(const PngState& png) { return Channels(png) * png.bit_depth; }

using BodyReader = absl::StatusOr<PngEvent>(ByteReader& reader, const PngChunk& chunk,
                                            PngState& state, std::string_view* body);

// Reads up to the first image data and leaves the reader at their start.
absl::StatusOr<PngState> ReadHead(ByteReader& reader, BodyReader& read_body,
                                  std::uint32_t* data_bytes) {
  PngState png;
  while (true) {
    SIGLIP_ASSIGN_OR_RETURN(const PngChunk chunk, ReadPngChunkHead(reader));
    std::string_view body;
    SIGLIP_ASSIGN_OR_RETURN(const PngEvent event, read_body(reader, chunk, png, &body));
    if (event == PngEvent::kEnd) return BadImage(kFormat, "no image data");
    if (event == PngEvent::kImageData) {
      *data_bytes = chunk.type == "fdAT" ? chunk.length - 4 : chunk.length;
      break;
    }
    SIGLIP_RETURN_IF_ERROR(CheckPngCrc(reader, chunk, body));
  }
  if (png.box_is_text) return BadImage(kFormat, "a frame's box is text");
  if (png.bit_depth == 0)
    return BadImage(kFormat, "no header with a known bit depth and colour type");
  if (png.width == 0 || png.height == 0) {
    return BadImage(kFormat, absl::StrCat("size ", png.width, "x", png.height));
  }
  if (!png.has_frame_box) {
    png.box[2] = png.width;
    png.box[3] = png.height;
  }
  // A second IHDR may have changed the size under a frame box.
  if (png.box[0] >= png.box[2] || png.box[1] >= png.box[3] || png.box[2] > png.width ||
      png.box[3] > png.height) {
    return BadImage(kFormat, "APNG frame is empty or outside the canvas");
  }
  return png;
}

// A door's thread asks for it: nothing is inflated, which may take seconds. Decode looks at all.
absl::StatusOr<ImageHeader> ReadHeader(std::string_view bytes) {
  ByteReader reader(bytes);
  reader.Seek(kSignature.size());
  std::uint32_t data_bytes = 0;
  SIGLIP_ASSIGN_OR_RETURN(const PngState png, ReadHead(reader, SkimPngChunkBody, &data_bytes));
  ImageHeader header;
  header.format = std::string(kFormat);
  header.width = png.width;
  header.height = png.height;
  const double pixels = static_cast<double>(png.width) * png.height;
  if (pixels <= static_cast<double>(kPillowMaxPixels)) {
    header.working_set_bytes = header.width * header.height * 3 + header.width * 24 + (2 << 20);
  }
  return header;
}

// The bytes of all data chunks, in the pieces in which Pillow hands them to its decoder.
class DataReader {
 public:
  DataReader(ByteReader& reader, PngState& png, std::uint32_t left)
      : reader_(reader), png_(png), left_(left) {}

  // Empty at the end of the data chunks or of the file.
  absl::StatusOr<std::string_view> Next() {
    while (left_ == 0) {
      reader_.Read(4);  // checksum, not looked at
      SIGLIP_ASSIGN_OR_RETURN(const PngChunk chunk, ReadPngChunkHead(reader_));
      if (chunk.type == "fdAT") {
        std::string_view body;
        SIGLIP_RETURN_IF_ERROR(ReadPngChunkBody(reader_, chunk, png_, &body).status());
        left_ = chunk.length - 4;
      } else if (chunk.type == "IDAT" || chunk.type == "DDAT") {
        left_ = chunk.length;
      } else {
        return std::string_view();
      }
    }
    const std::size_t size = std::min<std::size_t>(left_, kReadBlock);
    left_ -= static_cast<std::uint32_t>(size);
    return reader_.Read(size);
  }

  std::uint32_t left() const { return left_; }

 private:
  ByteReader& reader_;
  PngState& png_;
  std::uint32_t left_;
};

template <int kBpp>
void UnfilterPaeth(std::uint8_t* row, const std::uint8_t* above, std::size_t size) {
  for (std::size_t i = 0; i < std::min<std::size_t>(kBpp, size); ++i) {
    row[i] = static_cast<std::uint8_t>(row[i] + above[i]);
  }
  for (std::size_t i = kBpp; i < size; ++i) {
    const int a = row[i - kBpp];
    const int b = above[i];
    const int c = above[i - kBpp];
    const int pa = std::abs(b - c);
    const int pb = std::abs(a - c);
    const int pc = std::abs(a + b - 2 * c);
    const int predictor = (pa <= pb && pa <= pc) ? a : (pb <= pc ? b : c);
    row[i] = static_cast<std::uint8_t>(row[i] + predictor);
  }
}

template <int kBpp>
bool UnfilterAs(int filter, std::uint8_t* row, const std::uint8_t* above, std::size_t size) {
  switch (filter) {
    case 0:
      return true;
    case 1:
      for (std::size_t i = kBpp; i < size; ++i) {
        row[i] = static_cast<std::uint8_t>(row[i] + row[i - kBpp]);
      }
      return true;
    case 2:
      for (std::size_t i = 0; i < size; ++i) row[i] = static_cast<std::uint8_t>(row[i] + above[i]);
      return true;
    case 3:
      for (std::size_t i = 0; i < std::min<std::size_t>(kBpp, size); ++i) {
        row[i] = static_cast<std::uint8_t>(row[i] + above[i] / 2);
      }
      for (std::size_t i = kBpp; i < size; ++i) {
        row[i] = static_cast<std::uint8_t>(row[i] + (row[i - kBpp] + above[i]) / 2);
      }
      return true;
    case 4:
      UnfilterPaeth<kBpp>(row, above, size);
      return true;
    default:
      return false;
  }
}

bool Unfilter(int bytes_per_pixel, int filter, std::uint8_t* row, const std::uint8_t* above,
              std::size_t size) {
  switch (bytes_per_pixel) {
    case 1:
      return UnfilterAs<1>(filter, row, above, size);
    case 2:
      return UnfilterAs<2>(filter, row, above, size);
    case 3:
      return UnfilterAs<3>(filter, row, above, size);
    case 4:
      return UnfilterAs<4>(filter, row, above, size);
    case 6:
      return UnfilterAs<6>(filter, row, above, size);
    default:
      return UnfilterAs<8>(filter, row, above, size);
  }
}

// Unfiltered samples of one row -> RGB.
class RowConverter {
 public:
  explicit RowConverter(const PngState& png)
      : png_(png), scratch_(static_cast<std::size_t>(png.width)) {
    if (!png.palette) return;
    const std::size_t colors = std::min<std::size_t>(png.palette->size() / 3, 256);
    std::memcpy(palette_.rgb, png.palette->data(), colors * 3);
  }

  void Convert(const std::uint8_t* in, std::size_t width, std::uint8_t* out) {
    switch (png_.color_type) {
      case 0:
        return Grey(in, width, out);
      case 2:
        return Samples(in, width, 3, out);
      case 4:
        return Samples(in, width, 2, out);
      case 6:
        return Samples(in, width, 4, out);
      default:
        break;
    }
    if (png_.bit_depth == 8) return PaletteToRgb(in, width, palette_, out);
    UnpackBits(in, png_.bit_depth, width, scratch_.data());
    PaletteToRgb(scratch_.data(), width, palette_, out);
  }

 private:
  void Grey(const std::uint8_t* in, std::size_t width, std::uint8_t* out) {
    if (png_.bit_depth == 8) return GreyToRgb(in, width, out);
    if (png_.bit_depth == 16) {  // mode I;16
      for (std::size_t x = 0; x < width; ++x) {
        scratch_[x] = ClipI16(static_cast<std::uint32_t>(in[2 * x] << 8 | in[2 * x + 1]));
      }
    } else {
      UnpackBits(in, png_.bit_depth, width, scratch_.data());
      const int scale = 255 / ((1 << png_.bit_depth) - 1);
      for (std::size_t x = 0; x < width; ++x) {
        scratch_[x] = static_cast<std::uint8_t>(scratch_[x] * scale);
      }
    }
    GreyToRgb(scratch_.data(), width, out);
  }

  // Colour samples of 8 bits, or the high byte of 16; alpha is dropped.
  void Samples(const std::uint8_t* in, std::size_t width, std::size_t channels, std::uint8_t* out) {
    const std::size_t size = png_.bit_depth == 16 ? 2 : 1;
    if (channels == 3 && size == 1) {
      std::memcpy(out, in, width * 3);
      return;
    }
    if (channels == 4 && size == 1) return RgbxToRgb(in, width, out);
    const std::size_t step = channels * size;
    const std::size_t next = channels == 2 ? 0 : size;
    for (std::size_t x = 0; x < width; ++x) {
      for (std::size_t c = 0; c < 3; ++c) out[3 * x + c] = in[x * step + c * next];
    }
  }

  const PngState& png_;
  Palette palette_;
  PixelBuffer scratch_;
};

constexpr int kStartColumn[] = {0, 4, 0, 2, 0, 1, 0};
constexpr int kStartRow[] = {0, 0, 4, 0, 2, 0, 1};
constexpr int kColumnStep[] = {8, 8, 4, 4, 2, 2, 1};
constexpr int kRowStep[] = {8, 8, 8, 4, 4, 2, 2};

// Consumes inflated rows and puts them where they belong.
class RowSink {
 public:
  RowSink(const PngState& png, RgbImage& image)
      : png_(png),
        image_(image),
        converter_(png),
        width_(png.box[2] - png.box[0]),
        height_(png.box[3] - png.box[1]),
        max_row_bytes_(RowBytes(width_)),
        buffer_(max_row_bytes_ + 1),
        above_(max_row_bytes_ + 1),
        rgb_(png.interlaced ? static_cast<std::size_t>(width_) * 3 : 0) {
    std::memset(above_.data(), 0, above_.size());
    row_bytes_ = png.interlaced ? RowBytes(PassWidth()) : max_row_bytes_;
  }

  // Filter byte and samples of the row that comes next.
  std::uint8_t* buffer() { return buffer_.data(); }
  std::size_t buffer_bytes() const { return row_bytes_ + 1; }
  bool is_complete() const { return y_ >= height_; }

  // False if the filter is unknown.
  bool FinishRow() {
    const int bytes_per_pixel = (BitsPerPixel(png_) + 7) / 8;
    if (!Unfilter(bytes_per_pixel, buffer_[0], buffer_.data() + 1, above_.data() + 1, row_bytes_)) {
      return false;
    }
    if (png_.interlaced) {
      PlaceInterlaced();
    } else {
      converter_.Convert(buffer_.data() + 1, static_cast<std::size_t>(width_),
                         RgbRow(image_, png_.box[1] + y_) + png_.box[0] * 3);
      ++y_;
    }
    std::swap(buffer_, above_);
    return true;
  }

 private:
  std::size_t RowBytes(std::int64_t width) const {
    return static_cast<std::size_t>((width * BitsPerPixel(png_) + 7) / 8);
  }
  std::int64_t PassWidth() const {
    return (width_ + kColumnStep[pass_] - 1 - kStartColumn[pass_]) / kColumnStep[pass_];
  }

  void PlaceInterlaced() {
    const std::int64_t count = PassWidth();
    converter_.Convert(buffer_.data() + 1, static_cast<std::size_t>(count), rgb_.data());
    // Pillow places interlaced rows without the frame's offset.
    std::uint8_t* out = RgbRow(image_, y_) + kStartColumn[pass_] * 3;
    for (std::int64_t i = 0; i < count; ++i) {
      std::memcpy(out + i * kColumnStep[pass_] * 3, rgb_.data() + i * 3, 3);
    }
    y_ += kRowStep[pass_];
    while (y_ >= height_ || row_bytes_ == 0) {
      if (++pass_ == 7) {
        y_ = height_;
        break;
      }
      y_ = kStartRow[pass_];
      row_bytes_ = RowBytes(PassWidth());
      // The row above the first of a pass is black; the caller swaps the buffers next.
      std::memset(buffer_.data(), 0, buffer_.size());
    }
  }

  const PngState& png_;
  RgbImage& image_;
  RowConverter converter_;
  const std::int64_t width_;
  const std::int64_t height_;
  const std::size_t max_row_bytes_;
  PixelBuffer buffer_;
  PixelBuffer above_;
  PixelBuffer rgb_;
  std::size_t row_bytes_ = 0;
  std::int64_t y_ = 0;
  int pass_ = 0;
};

class Inflater {
 public:
  Inflater() { ok_ = inflateInit(&stream_) == Z_OK; }
  ~Inflater() { inflateEnd(&stream_); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  // One piece of data. Sets *done when the image is complete.
  absl::Status Feed(std::string_view piece, RowSink& sink, bool* done) {
    if (!ok_) return absl::ResourceExhaustedError("PNG: no memory for inflating");
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(piece.data()));
    stream_.avail_in = static_cast<uInt>(piece.size());
    while (stream_.avail_in > 0) {
      stream_.next_out = sink.buffer() + filled_;
      stream_.avail_out = static_cast<uInt>(sink.buffer_bytes() - filled_);
      const int result = inflate(&stream_, Z_NO_FLUSH);
      if (result == Z_MEM_ERROR) throw std::bad_alloc();
      if (result < 0) {
        return BadImage(
            kFormat,
            absl::StrCat("broken data: ", stream_.msg != nullptr ? stream_.msg : "inflate failed"));
      }
      filled_ = sink.buffer_bytes() - stream_.avail_out;
      if (filled_ < sink.buffer_bytes()) break;
      filled_ = 0;
      if (!sink.FinishRow()) return BadImage(kFormat, "unknown row filter");
      if (sink.is_complete() || result == Z_STREAM_END) {
        *done = true;
        break;
      }
    }
    return absl::OkStatus();
  }

 private:
  z_stream stream_ = {};
  bool ok_ = false;
  std::size_t filled_ = 0;
};

// What Pillow still reads after the picture: chunks after the data can refuse the file.
absl::Status ReadTail(ByteReader& reader, PngState& png, std::uint32_t left) {
  const std::uint64_t frames =
      std::uint64_t{png.frame_count.value_or(1)} + (png.frame_count && png.default_image ? 1 : 0);
  reader.Read(left);
  while (true) {
    reader.Read(4);  // checksum, not looked at
    const absl::StatusOr<PngChunk> chunk = ReadPngChunkHead(reader);
    if (!chunk.ok() || chunk->type == "IEND") return absl::OkStatus();
    if (chunk->type == "fcTL" && frames > 1) return absl::OkStatus();
    std::string_view body;
    SIGLIP_ASSIGN_OR_RETURN(const PngEvent event, ReadPngChunkBody(reader, *chunk, png, &body));
    if (event == PngEvent::kImageData) {
      const std::uint32_t rest = chunk->type == "fdAT" ? chunk->length - 4 : chunk->length;
      if (!reader.ReadExactly(rest)) return BadImage(kFormat, "truncated after the image data");
    }
  }
}

// Converting a grey or palette image to RGB, Pillow converts its transparent colour, too.
absl::Status CheckTransparency(const PngState& png, PngTransparency transparency) {
  const bool is_grey = png.color_type == 0 && png.bit_depth > 1 && png.bit_depth <= 8;
  if (!is_grey && png.color_type != 3) return absl::OkStatus();
  if (transparency == PngTransparency::kText) {
    return BadImage(kFormat, "the transparent colour is text");
  }
  if (transparency == PngTransparency::kColor && png.color_type == 3 && !png.palette) {
    return BadImage(kFormat, "a transparent entry of no palette");
  }
  return absl::OkStatus();
}

void FillWithSampleZero(const PngState& png, RgbImage& image) {
  const bool has_color_zero = png.palette && png.palette->size() >= 3;
  for (std::size_t i = 0; i < image.pixels.size(); i += 3) {
    if (has_color_zero) {
      std::memcpy(image.pixels.data() + i, png.palette->data(), 3);
    } else {
      std::memset(image.pixels.data() + i, 0, 3);
    }
  }
}

absl::StatusOr<RgbImage> Decode(std::string_view bytes) {
  ByteReader reader(bytes);
  reader.Seek(kSignature.size());
  std::uint32_t data_bytes = 0;
  SIGLIP_ASSIGN_OR_RETURN(PngState png, ReadHead(reader, ReadPngChunkBody, &data_bytes));
  if (png.palette && png.palette->size() / 3 > 256) {
    return BadImage(kFormat, "palette with more than 256 colours");
  }
  PngState chunks = png;  // what later chunks change does not matter to the pixels
  // Rows that never come, and what is outside an APNG frame, hold sample 0.
  RgbImage image = AllocateRgb(png.width, png.height);
  FillWithSampleZero(png, image);
  RowSink sink(png, image);
  DataReader data(reader, chunks, data_bytes);
  Inflater inflater;
  bool done = false;
  while (!done) {
    SIGLIP_ASSIGN_OR_RETURN(const std::string_view piece, data.Next());
    if (piece.empty()) return BadImage(kFormat, "truncated image data");
    SIGLIP_RETURN_IF_ERROR(inflater.Feed(piece, sink, &done));
  }
  SIGLIP_RETURN_IF_ERROR(ReadTail(reader, chunks, data.left()));
  SIGLIP_RETURN_IF_ERROR(CheckTransparency(png, chunks.transparency));
  return image;
}

}  // namespace

const Codec kPngCodec = {kFormat,
                         [](std::string_view bytes) { return bytes.substr(0, 8) == kSignature; },
                         ReadHeader, Decode};

}  // namespace siglip
