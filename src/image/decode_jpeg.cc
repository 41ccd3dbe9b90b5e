// JPEG through libjpeg-turbo, as Pillow's JpegImagePlugin.py and JpegDecode.c drive it: a
// suspending source, so that a file that runs dry before its last row is refused; islow DCT, fancy
// upsampling.

#include "image/byte_reader.h"
#include "image/codec.h"
#include "image/convert_rgb.h"

#include "base/status_macros.h"

#include "absl/strings/str_cat.h"

#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include <jpeglib.h>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "JPEG";
constexpr std::size_t kReadBlock = 65536;  // Pillow's ImageFile.MAXBLOCK

// A progressive file may repeat scans without end, and each costs a pass over all coefficients.
// Real encoders write 10 to 20. Pillow has no limit: this is a stated exception.
constexpr int kMaxScans = 500;
constexpr std::int64_t kMaxScanPixels = 24'000'000'000;  // scans * pixels; 134 scans of the largest

struct JpegHeader {
  int width = 0;
  int height = 0;
  int layers = 0;
  bool progressive = false;
  bool multi_scan = false;
  bool arithmetic = false;
  std::int64_t coefficient_blocks = 0;
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

// One marker segment. Returns an error where the plugin raises one.
absl::Status ReadSegment(ByteReader& reader, std::uint32_t marker, JpegHeader& header) {
  const std::string_view length = reader.Read(2);
  if (length.size() < 2) return BadImage(kFormat, "marker segment is cut");
  const std::uint32_t size = U16Be(length, 0);
  const std::optional<std::string_view> body = reader.ReadExactly(size < 2 ? 0 : size - 2);
  if (!body) return BadImage(kFormat, "marker segment is cut");
  if (IsFrame(marker)) return ReadFrame(*body, marker, header);
  if (marker == 0xFFDB) return ReadQuantization(*body);
  if (marker == 0xFFE0 && body->substr(0, 4) == "JFIF" && body->size() < 7) {
    return BadImage(kFormat, "JFIF marker is cut");
  }
  if (marker == 0xFFEE && body->substr(0, 5) == "Adobe" && body->size() < 7) {
    return BadImage(kFormat, "Adobe marker is cut");
  }
  if (marker == 0xFFDA && !body->empty()) {
    header.multi_scan = header.progressive || static_cast<int>(U8(*body, 0)) != header.layers;
  }
  return absl::OkStatus();
}

// The plugin's walk over the markers up to the first scan.
absl::StatusOr<JpegHeader> ReadJpegHeader(std::string_view bytes) {
  JpegHeader header;
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
    if (!HasNoSegment(marker)) SIGLIP_RETURN_IF_ERROR(ReadSegment(reader, marker, header));
    if (marker == 0xFFDA) break;
    const std::string_view next = reader.Read(1);
    if (next.empty()) return BadImage(kFormat, "no scan found");
    byte = U8(next, 0);
  }
  if (header.layers == 0) return BadImage(kFormat, "scan before the start of frame");
  if (header.width == 0 || header.height == 0) {
    return BadImage(kFormat, absl::StrCat("size ", header.width, "x", header.height));
  }
  return header;
}

absl::StatusOr<ImageHeader> ReadHeader(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const JpegHeader jpeg, ReadJpegHeader(bytes));
  ImageHeader header;
  header.format = std::string(kFormat);
  header.width = jpeg.width;
  header.height = jpeg.height;
  header.working_set_bytes = header.width * header.height * 3 + header.width * 64 + (1 << 18);
  if (jpeg.multi_scan) header.working_set_bytes += jpeg.coefficient_blocks * 128;
  return header;
}

struct ErrorManager {
  jpeg_error_mgr base;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

// libjpeg's border is C: failures come back by longjmp, so the frame that calls setjmp (Run) and
// all between hold nothing with a destructor.
class Decompressor {
 public:
  Decompressor(std::string_view bytes, const JpegHeader& header) : header_(header) {
    info_.err = jpeg_std_error(&error_.base);
    error_.base.error_exit = [](j_common_ptr info) {
      auto* error = reinterpret_cast<ErrorManager*>(info->err);
      error->base.format_message(info, error->message);
      std::longjmp(error->jump, 1);
    };
    error_.base.output_message = [](j_common_ptr) {};
    error_.message[0] = '\0';
    // Pillow hands over the file in blocks. That matters for arithmetic coding alone: libjpeg
    // cannot suspend within it, so such a file is refused where a scan crosses the border of a
    // block.
    const std::size_t first = header.arithmetic ? std::min(kReadBlock, bytes.size()) : bytes.size();
    source_.next_input_byte = reinterpret_cast<const JOCTET*>(bytes.data());
    source_.bytes_in_buffer = first;
    left_ = bytes.size() - first;
    source_.init_source = [](j_decompress_ptr) {};
    source_.fill_input_buffer = [](j_decompress_ptr) -> boolean { return FALSE; };
    source_.skip_input_data = [](j_decompress_ptr info, long count) {
      if (count <= 0) return;
      const std::size_t skip =
          std::min(static_cast<std::size_t>(count), info->src->bytes_in_buffer);
      // Skipping past the end leaves nothing: the next read suspends.
      info->src->next_input_byte += skip;
      info->src->bytes_in_buffer -= skip;
    };
    source_.resync_to_restart = jpeg_resync_to_restart;
    source_.term_source = [](j_decompress_ptr) {};
    progress_.base.progress_monitor = [](j_common_ptr info) {
      auto* cinfo = reinterpret_cast<j_decompress_ptr>(info);
      const auto* progress = reinterpret_cast<const Progress*>(info->progress);
      if (cinfo->input_scan_number > progress->max_scans) {
        auto* error = reinterpret_cast<ErrorManager*>(info->err);
        std::snprintf(error->message, sizeof(error->message), "more than %d scans",
                      progress->max_scans);
        std::longjmp(error->jump, 1);
      }
    };
    const std::int64_t pixels = std::int64_t{header.width} * header.height;
    progress_.max_scans =
        static_cast<int>(std::min<std::int64_t>(kMaxScans, kMaxScanPixels / pixels));
  }
  ~Decompressor() { jpeg_destroy_decompress(&info_); }
  Decompressor(const Decompressor&) = delete;
  Decompressor& operator=(const Decompressor&) = delete;

  // row4: header.width*4 bytes for CMYK rows. Returns false on failure; message() says why.
  bool Run(RgbImage& image, std::uint8_t* row4) {
    if (setjmp(error_.jump)) return false;
    jpeg_create_decompress(&info_);
    info_.client_data = this;
    info_.src = &source_;
    info_.progress = &progress_.base;
    int ok = JPEG_SUSPENDED;
    do {
      ok = jpeg_read_header(&info_, FALSE);
    } while (ok == JPEG_HEADER_TABLES_ONLY || (ok == JPEG_SUSPENDED && NextBlock()));
    if (ok == JPEG_SUSPENDED) return Fail("truncated in the header");
    const bool is_cmyk = header_.layers == 4;
    info_.out_color_space = is_cmyk ? JCS_CMYK : JCS_RGB;
    if (!jpeg_start_decompress(&info_))
      return Fail("truncated: the data ends before the last scan");
    if (info_.output_width != static_cast<JDIMENSION>(header_.width) ||
        info_.output_height < static_cast<JDIMENSION>(header_.height) ||
        info_.output_components != (is_cmyk ? 4 : 3)) {
      return Fail("the frame differs from the header");
    }
    for (int y = 0; y < header_.height; ++y) {
      JSAMPROW row = is_cmyk ? row4 : RgbRow(image, y);
      while (jpeg_read_scanlines(&info_, &row, 1) != 1) {
        if (!NextBlock()) return Fail("truncated: the data ends before the last row");
      }
      if (is_cmyk) {
        InvertedCmykToRgb(row4, static_cast<std::size_t>(header_.width), RgbRow(image, y));
      }
    }
    // All rows are there: a missing end is fine, an error before it is not.
    jpeg_finish_decompress(&info_);
    return true;
  }

  const char* message() const { return error_.message; }

 private:
  struct Progress {
    jpeg_progress_mgr base;
    int max_scans;
  };

  // Makes the next block of the file readable; false at the file's end.
  bool NextBlock() {
    if (left_ == 0) return false;
    const std::size_t block = std::min(kReadBlock, left_);
    left_ -= block;
    source_.bytes_in_buffer += block;
    const std::size_t skip = std::min(to_skip_, source_.bytes_in_buffer);
    source_.next_input_byte += skip;
    source_.bytes_in_buffer -= skip;
    to_skip_ -= skip;
    return true;
  }

  bool Fail(const char* what) {
    std::snprintf(error_.message, sizeof(error_.message), "%s", what);
    return false;
  }

  const JpegHeader& header_;
  jpeg_decompress_struct info_ = {};
  ErrorManager error_ = {};
  jpeg_source_mgr source_ = {};
  Progress progress_ = {};
  std::size_t left_ = 0;
  std::size_t to_skip_ = 0;
};

absl::StatusOr<RgbImage> Decode(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const JpegHeader header, ReadJpegHeader(bytes));
  RgbImage image = AllocateRgb(header.width, header.height);
  PixelBuffer row4(header.layers == 4 ? static_cast<std::size_t>(header.width) * 4 : 0);
  Decompressor decompressor(bytes, header);
  if (!decompressor.Run(image, row4.data())) return BadImage(kFormat, decompressor.message());
  return image;
}

}  // namespace

const Codec kJpegCodec = {
    kFormat, [](std::string_view bytes) { return bytes.substr(0, 3) == "\xff\xd8\xff"; },
    ReadHeader, Decode};

}  // namespace siglip
