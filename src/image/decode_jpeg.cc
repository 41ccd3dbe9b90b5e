// JPEG through libjpeg-turbo, as Pillow's JpegImagePlugin.py and JpegDecode.c drive it: a
// suspending source, so that a file that runs dry before its last row is refused; islow DCT, fancy
// upsampling.

#include "image/codec.h"
#include "image/convert_rgb.h"
#include "image/jpeg_header.h"
#include "image/jpeg_smoothing.h"
#include "image/lossless_jpeg.h"

#include "base/status_macros.h"

#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include <jerror.h>
#include <jpeglib.h>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "JPEG";
constexpr std::size_t kReadBlock = 65536;  // Pillow's ImageFile.MAXBLOCK

// A progressive file may repeat scans without end, and each costs a pass over all coefficients.
// Real encoders write 10 to 20. Pillow has no limit: this is a stated exception.
constexpr int kMaxScans = 500;
constexpr std::int64_t kMaxScanPixels = 24'000'000'000;  // scans * pixels; 134 scans of the largest

absl::StatusOr<ImageHeader> ReadHeader(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const JpegHeader jpeg, ReadJpegHeader(bytes));
  ImageHeader header;
  header.format = std::string(kFormat);
  header.width = jpeg.width;
  header.height = jpeg.height;
  header.working_set_bytes = header.width * header.height * 3 + header.width * 64 + (1 << 18);
  if (jpeg.lossless) {  // planes, two rows of numbers and the header's copy
    header.working_set_bytes += header.width * header.height * jpeg.layers + header.width * 256 +
                                static_cast<std::int64_t>(jpeg.scan_at);
  }
  // Coefficients and, of a progressive file, the averages of its blocks.
  if (jpeg.multi_scan) header.working_set_bytes += jpeg.coefficient_blocks * 130;
  return header;
}

struct ErrorManager {
  jpeg_error_mgr base;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

bool IsFrameOfLibjpeg(int marker) {
  return marker == 0xC0 || marker == 0xC1 || marker == 0xC2 || marker == 0xC9 || marker == 0xCA;
}

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
    error_.base.emit_message = [](j_common_ptr info, int) {
      auto* self = static_cast<Decompressor*>(info->client_data);
      if (info->err->msg_code == JWRN_HIT_MARKER) self->scan_ran_dry_ = true;
      if (info->err->msg_code == JTRC_RST) self->ScanGoesOn();
    };
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
      info->src->next_input_byte += skip;
      info->src->bytes_in_buffer -= skip;
      // The next read suspends; what is still to be skipped lies in later blocks, if anywhere.
      static_cast<Decompressor*>(info->client_data)->to_skip_ =
          static_cast<std::size_t>(count) - skip;
    };
    source_.resync_to_restart = [](j_decompress_ptr info, int desired) -> boolean {
      const boolean ok = jpeg_resync_to_restart(info, desired);
      if (info->unread_marker == 0) static_cast<Decompressor*>(info->client_data)->ScanGoesOn();
      return ok;
    };
    source_.term_source = [](j_decompress_ptr) {};
    progress_.progress_monitor = [](j_common_ptr info) {
      static_cast<Decompressor*>(info->client_data)->CheckScans();
    };
    const std::int64_t pixels = std::int64_t{header.width} * header.height;
    max_scans_ = static_cast<int>(std::min<std::int64_t>(kMaxScans, kMaxScanPixels / pixels));
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
    info_.progress = &progress_;
    int ok = JPEG_SUSPENDED;
    do {
      ok = jpeg_read_header(&info_, FALSE);
    } while (ok == JPEG_HEADER_TABLES_ONLY || (ok == JPEG_SUSPENDED && NextBlock()));
    if (ok == JPEG_SUSPENDED) return Fail("truncated in the header");
    const bool is_cmyk = header_.layers == 4;
    info_.out_color_space = is_cmyk ? JCS_CMYK : JCS_RGB;
    info_.buffered_image = info_.progressive_mode;
    if (!jpeg_start_decompress(&info_) || (info_.buffered_image && !ReadScans())) {
      return Fail("truncated: the data ends before the last scan");
    }
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
    if (info_.buffered_image) jpeg_finish_output(&info_);
    // All rows are there: a missing end is fine, an error before it is not. libjpeg-turbo 3
    // (Pillow's) refuses a second frame by its marker, 2.1 only when its length has come.
    if (!jpeg_finish_decompress(&info_) && IsFrameOfLibjpeg(info_.unread_marker)) {
      return Fail("a second start of frame");
    }
    return true;
  }

  const char* message() const { return error_.message; }
  bool out_of_memory() const { return error_.base.msg_code == JERR_OUT_OF_MEMORY; }

 private:
  // All scans of a progressive file, completed as Pillow's libjpeg-turbo does it. False at the
  // file's end.
  bool ReadScans() {
    while (!jpeg_input_complete(&info_)) {
      const JDIMENSION row = info_.input_iMCU_row;
      const bool is_within_scan = row < info_.total_iMCU_rows;
      if (is_within_scan && !scan_ran_dry_) last_good_row_ = row;
      CheckScans();
      const int result = jpeg_consume_input(&info_);
      if (result == JPEG_SUSPENDED && !NextBlock()) return false;
      if (result == JPEG_REACHED_SOS) scan_ran_dry_ = false;
    }
    SmoothBlocks(&info_, jpeg_read_coefficients(&info_), last_good_row_);
    info_.do_block_smoothing = FALSE;
    return jpeg_start_output(&info_, info_.input_scan_number);
  }

  void CheckScans() {
    if (info_.input_scan_number <= max_scans_) return;
    std::snprintf(error_.message, sizeof(error_.message), "more than %d scans", max_scans_);
    std::longjmp(error_.jump, 1);
  }

  // Data follow a restart marker after all.
  void ScanGoesOn() {
    scan_ran_dry_ = false;
    last_good_row_ = info_.input_iMCU_row;
  }

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
  jpeg_progress_mgr progress_ = {};
  int max_scans_ = 0;
  bool scan_ran_dry_ = false;     // a marker came before the data of all blocks
  JDIMENSION last_good_row_ = 0;  // of MCUs, in the last scan
  std::size_t left_ = 0;
  std::size_t to_skip_ = 0;
};

absl::StatusOr<RgbImage> Decode(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const JpegHeader header, ReadJpegHeader(bytes));
  if (header.lossless) return DecodeLosslessJpeg(bytes, header);
  RgbImage image = AllocateRgb(header.width, header.height);
  PixelBuffer row4(header.layers == 4 ? static_cast<std::size_t>(header.width) * 4 : 0);
  Decompressor decompressor(bytes, header);
  if (decompressor.Run(image, row4.data())) return image;
  if (decompressor.out_of_memory()) return absl::ResourceExhaustedError("JPEG: not enough memory");
  return BadImage(kFormat, decompressor.message());
}

}  // namespace

const Codec kJpegCodec = {
    kFormat, [](std::string_view bytes) { return bytes.substr(0, 3) == "\xff\xd8\xff"; },
    ReadHeader, Decode};

}  // namespace siglip
