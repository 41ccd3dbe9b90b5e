// Source: libjpeg-turbo 3.2.0 src/jdlhuff.c, jddiffct.c, jdlossls.c, jdhuff.c
// (jpeg_fill_bit_buffer, jpeg_huff_decode), jdmarker.c (read_restart_marker,
// jpeg_resync_to_restart). The head is read by the libjpeg that is there, as that of a baseline
// file.

#include "image/lossless_jpeg.h"

#include "image/byte_reader.h"
#include "image/codec.h"
#include "image/convert_rgb.h"

#include "base/status_macros.h"

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <jpeglib.h>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "JPEG";
constexpr int kMaxComponents = 4;
constexpr int kMaxSamplesInMcu = 10;
constexpr int kEndOfImage = 0xD9;
constexpr int kStartOfScan = 0xDA;

struct Component {
  int h = 1;  // sampling factors
  int v = 1;
  int table = 0;
};

struct Head {
  int count = 0;
  std::array<Component, kMaxComponents> components;
  std::array<int, kMaxComponents> scan_order = {};
  std::array<JHUFF_TBL, NUM_HUFF_TBLS> tables = {};
  std::array<bool, NUM_HUFF_TBLS> has_table = {};
  int scan_components = 0;
  int predictor = 0;  // Ss
  int end = 0;        // Se
  int high = 0;       // Ah
  int shift = 0;      // Al
  unsigned restart_interval = 0;
  bool saw_jfif = false;
  bool saw_adobe = false;
  int adobe_transform = 0;
};

struct ErrorManager {
  jpeg_error_mgr base;
  std::jmp_buf jump;
};

// libjpeg's border is C, see decode_jpeg.cc. False if the head is cut or broken.
bool ReadHead(const std::uint8_t* data, std::size_t size, Head& head) {
  jpeg_decompress_struct info = {};
  ErrorManager error = {};
  info.err = jpeg_std_error(&error.base);
  error.base.error_exit = [](j_common_ptr common) {
    std::longjmp(reinterpret_cast<ErrorManager*>(common->err)->jump, 1);
  };
  error.base.emit_message = [](j_common_ptr, int) {};
  jpeg_source_mgr source = {};
  source.next_input_byte = data;
  source.bytes_in_buffer = size;
  source.init_source = [](j_decompress_ptr) {};
  source.fill_input_buffer = [](j_decompress_ptr) -> boolean { return FALSE; };
  source.skip_input_data = [](j_decompress_ptr common, long count) {
    const std::size_t skip =
        std::min(static_cast<std::size_t>(std::max(count, 0L)), common->src->bytes_in_buffer);
    common->src->next_input_byte += skip;
    common->src->bytes_in_buffer -= skip;
  };
  source.resync_to_restart = jpeg_resync_to_restart;
  source.term_source = [](j_decompress_ptr) {};
  if (setjmp(error.jump)) {
    jpeg_destroy_decompress(&info);
    return false;
  }
  jpeg_create_decompress(&info);
  info.src = &source;
  const bool ok = jpeg_read_header(&info, TRUE) == JPEG_HEADER_OK && source.bytes_in_buffer == 0 &&
                  info.num_components <= kMaxComponents;
  if (ok) {
    head.count = info.num_components;
    head.scan_components = info.comps_in_scan;
    for (int c = 0; c < head.count; ++c) {
      const jpeg_component_info& component = info.comp_info[c];
      head.components[static_cast<std::size_t>(c)] = {component.h_samp_factor,
                                                      component.v_samp_factor, component.dc_tbl_no};
    }
    for (int i = 0; i < head.scan_components; ++i) {
      head.scan_order[static_cast<std::size_t>(i)] = info.cur_comp_info[i]->component_index;
    }
    for (std::size_t t = 0; t < NUM_HUFF_TBLS; ++t) {
      head.has_table[t] = info.dc_huff_tbl_ptrs[t] != nullptr;
      if (head.has_table[t]) head.tables[t] = *info.dc_huff_tbl_ptrs[t];
    }
    head.predictor = info.Ss;
    head.end = info.Se;
    head.high = info.Ah;
    head.shift = info.Al;
    head.restart_interval = info.restart_interval;
    head.saw_jfif = info.saw_JFIF_marker != FALSE;
    head.saw_adobe = info.saw_Adobe_marker != FALSE;
    head.adobe_transform = info.Adobe_transform;
  }
  jpeg_destroy_decompress(&info);
  return ok;
}

absl::Status CheckHead(const Head& head, const JpegHeader& header) {
  if (head.count != header.layers || head.scan_components != head.count) {
    return BadImage(kFormat, "lossless in several scans");
  }
  if (head.predictor < 1 || head.predictor > 7 || head.end != 0 || head.high != 0 ||
      head.shift < 0 || head.shift >= 8) {
    return BadImage(kFormat, "broken parameters of a lossless scan");
  }
  int samples = 0;
  for (int c = 0; c < head.count; ++c) {
    const Component& component = head.components[static_cast<std::size_t>(c)];
    samples += component.h * component.v;
  }
  if (head.count > 1 && samples > kMaxSamplesInMcu) {
    return BadImage(kFormat, "sampling factors are too large");
  }
  const bool has_colors_to_convert =
      (head.count == 3 && (head.saw_jfif || (head.saw_adobe && head.adobe_transform != 0))) ||
      (head.count == 4 && head.saw_adobe && head.adobe_transform != 0);
  return has_colors_to_convert ? BadImage(kFormat, "lossless, but not in RGB or CMYK")
                               : absl::OkStatus();
}

constexpr int kAhead = 8;

// Canonical codes of 1 to 16 bits.
class HuffmanTable {
 public:
  // False if there are too many codes of a length or a symbol is none of a difference.
  bool Build(const JHUFF_TBL& table) {
    int code = 0;
    int count = 0;
    for (std::size_t length = 1; length <= 16; ++length) {
      const int of_length = table.bits[length];
      if (count + of_length > 256) return false;
      offset_[length] = count - code;
      code += of_length;
      count += of_length;
      max_code_[length] = of_length > 0 ? code - 1 : -1;
      if (of_length > 0 && code > (1 << length)) return false;
      code <<= 1;
    }
    max_code_[17] = INT32_MAX;
    for (int ahead = 0; ahead < 256; ++ahead) {
      int length = 1;
      while (length <= kAhead && IsLonger(ahead >> (kAhead - length), length)) ++length;
      ahead_[static_cast<std::size_t>(ahead)] = static_cast<std::uint8_t>(length);
    }
    std::copy(std::begin(table.huffval), std::end(table.huffval), symbols_.begin());
    return std::all_of(symbols_.begin(), symbols_.begin() + count, [](int s) { return s <= 16; });
  }

  // The length of the code that these 8 bits start with, 9 if it is longer than they are.
  int LengthOf(int ahead) const { return ahead_[static_cast<std::size_t>(ahead)]; }
  bool IsLonger(int code, int length) const {
    return code > max_code_[static_cast<std::size_t>(length)];
  }
  int Symbol(int code, int length) const {
    return symbols_[static_cast<std::size_t>(code + offset_[static_cast<std::size_t>(length)]) &
                    255];
  }

 private:
  std::array<int, 18> max_code_ = {};
  std::array<int, 18> offset_ = {};
  std::array<int, 256> symbols_ = {};
  std::array<std::uint8_t, 256> ahead_ = {};
};

// The entropy-coded bytes. Where the file ends libjpeg waits for more, and Pillow refuses.
class BitReader {
 public:
  explicit BitReader(std::string_view bytes) : reader_(bytes) {}

  bool file_ended() const { return file_ended_; }
  // A marker came before the data of all samples; the rest is made of zero bits.
  bool ran_dry() const { return ran_dry_; }

  // 0 if the file ended, too.
  int Decode(const HuffmanTable& table) {
    // libjpeg looks 8 bits ahead where it can, and reads on for them.
    if (left_ < kAhead) Fill(0);
    int length = 1;
    if (left_ >= kAhead) {
      length = table.LengthOf(static_cast<int>(buffer_ >> (left_ - kAhead) & 255));
    }
    int code = Take(length);
    while (!file_ended_ && table.IsLonger(code, length)) {
      code = code << 1 | Take(1);
      ++length;
    }
    return length > 16 || file_ended_ ? 0 : table.Symbol(code, length);
  }

  int Take(int bits) {
    if (left_ < bits) Fill(bits);
    if (left_ < bits) return 0;
    left_ -= bits;
    return static_cast<int>(buffer_ >> left_ & ((std::uint64_t{1} << bits) - 1));
  }

  // The marker between two intervals. False if the file ends before it.
  bool Restart() {
    left_ = 0;
    if (marker_ == 0 && !NextMarker()) return false;
    while (marker_ != 0xD0 + restart_ && IsPassed(marker_)) {
      if (!NextMarker()) return false;
    }
    if (!IsLeft(marker_)) marker_ = 0;
    restart_ = (restart_ + 1) & 7;
    if (marker_ == 0) ran_dry_ = false;
    return true;
  }

  // Huffman tables that libjpeg takes, though they are used no more.
  static bool AreTables(std::string_view s) {
    while (!s.empty()) {
      if (s.size() < 17 || (U8(s, 0) & ~0x13U) != 0) return false;
      std::size_t count = 0;
      for (std::size_t i = 1; i <= 16; ++i) count += U8(s, i);
      if (count > std::min<std::size_t>(256, s.size() - 17)) return false;
      s.remove_prefix(17 + count);
    }
    return true;
  }

  // Behind the last row: false if libjpeg refuses what comes before the end marker.
  bool ReadTail() {
    while (marker_ != 0 || NextMarker()) {
      const int marker = marker_;
      marker_ = 0;
      if (marker == kEndOfImage) return true;
      if ((marker >= 0xD0 && marker <= 0xD7) || marker == 0x01) continue;
      const std::string_view length = reader_.Read(2);
      const bool has_segment = marker == 0xC4 || marker == 0xCC || marker == 0xDB ||
                               marker == 0xDC || marker == 0xDD || marker == 0xFE ||
                               (marker >= 0xE0 && marker <= 0xEF);
      if (!has_segment) return marker == kStartOfScan && reader_.remaining() == 0;
      if (length.size() < 2) return true;
      const std::size_t size = U16Be(length, 0);
      const std::string_view body = reader_.Read(std::max<std::size_t>(size, 2) - 2);
      if (marker == 0xDD && size != 4) return false;  // a restart interval
      if (body.size() + 2 < size) return true;
      if (marker == 0xCC && size % 2 != 0 && reader_.remaining() > 0)
        return false;  // of arithmetic coding
      if (marker == 0xC4 && !AreTables(body)) return false;
    }
    return true;
  }

 private:
  static constexpr int kFull = 57;  // libjpeg's buffer of 64 bits

  int Byte() {
    const std::string_view byte = reader_.Read(1);
    if (!byte.empty()) return static_cast<int>(U8(byte, 0));
    file_ended_ = true;
    return -1;
  }

  void Fill(int needed) {
    while (left_ < kFull && marker_ == 0) {
      int byte = Byte();
      if (byte == 0xFF) {
        while (byte == 0xFF) byte = Byte();
        if (byte > 0) marker_ = byte;
        if (byte == 0) byte = 0xFF;
      }
      if (byte < 0) return;
      if (marker_ != 0) break;
      buffer_ = buffer_ << 8 | static_cast<std::uint64_t>(byte);
      left_ += 8;
    }
    if (needed <= left_) return;
    ran_dry_ = true;
    buffer_ <<= kFull - left_;
    left_ = kFull;
  }

  bool NextMarker() {
    int byte = 0;
    do {
      while (byte != 0xFF && byte >= 0) byte = Byte();
      while (byte == 0xFF) byte = Byte();
    } while (byte == 0);
    if (byte < 0) return false;
    marker_ = byte;
    return true;
  }

  int Distance(int marker) const { return (marker - 0xD0 - restart_) & 7; }
  static bool IsRestart(int marker) { return marker >= 0xD0 && marker <= 0xD7; }
  // A marker of an interval before, or none at all.
  bool IsPassed(int marker) const {
    return marker < 0xC0 || (IsRestart(marker) && Distance(marker) >= 6);
  }
  // A marker of one of the next intervals, or of what follows the scan.
  bool IsLeft(int marker) const {
    return !IsRestart(marker) || Distance(marker) == 1 || Distance(marker) == 2;
  }

  ByteReader reader_;
  std::uint64_t buffer_ = 0;
  int left_ = 0;
  int marker_ = 0;   // read and not yet handled
  int restart_ = 0;  // the next restart marker's number
  bool ran_dry_ = false;
  bool file_ended_ = false;
};

template <int kPredictor>
int Predict(int left, int above, int above_left) {
  switch (kPredictor) {
    case 1:
      return left;
    case 2:
      return above;
    case 3:
      return above_left;
    case 4:
      return left + above - above_left;
    case 5:
      return left + ((above - above_left) >> 1);
    case 6:
      return above + ((left - above_left) >> 1);
    default:
      return (left + above) >> 1;
  }
}

// One row of sums. `above` may be `out`.
template <int kPredictor>
void AddRow(const int* in, const int* above, int first, std::int64_t width, int* out) {
  int above_left = above[0];
  int left = (in[0] + first) & 0xFFFF;
  out[0] = left;
  for (std::int64_t x = 1; x < width; ++x) {
    const int above_here = above[x];
    left = (in[x] + Predict<kPredictor>(left, above_here, above_left)) & 0xFFFF;
    above_left = above_here;
    out[x] = left;
  }
}

void AddRow(int predictor, const int* in, const int* above, int first, std::int64_t width,
            int* out) {
  switch (predictor) {
    case 1:
      return AddRow<1>(in, above, first, width, out);
    case 2:
      return AddRow<2>(in, above, first, width, out);
    case 3:
      return AddRow<3>(in, above, first, width, out);
    case 4:
      return AddRow<4>(in, above, first, width, out);
    case 5:
      return AddRow<5>(in, above, first, width, out);
    case 6:
      return AddRow<6>(in, above, first, width, out);
    default:
      return AddRow<7>(in, above, first, width, out);
  }
}

class Scan {
 public:
  Scan(const Head& head, const JpegHeader& header, std::string_view data)
      : head_(head), width_(header.width), height_(header.height), bits_(data) {
    for (int c = 0; c < head.count; ++c) {
      max_h_ = std::max(max_h_, Of(c).h);
      max_v_ = std::max(max_v_, Of(c).v);
    }
    is_interleaved_ = head.count > 1;
    mcu_rows_ = (height_ + max_v_ - 1) / max_v_;
    mcus_per_row_ = is_interleaved_ ? (width_ + max_h_ - 1) / max_h_ : width_;
    for (int c = 0; c < head.count; ++c) {
      Plane& plane = planes_[static_cast<std::size_t>(c)];
      plane.width = (width_ * Of(c).h + max_h_ - 1) / max_h_;
      plane.height = (height_ * Of(c).v + max_v_ - 1) / max_v_;
      plane.row_size = is_interleaved_ ? mcus_per_row_ * Of(c).h : plane.width;
      const std::size_t rows = static_cast<std::size_t>(plane.row_size * Of(c).v);
      plane.differences.resize(rows);
      plane.values.resize(rows);
      plane.samples.resize(static_cast<std::size_t>(plane.width) *
                           static_cast<std::size_t>(plane.height));
    }
  }

  absl::Status Decode() {
    for (int c = 0; c < head_.count; ++c) {
      const std::size_t t = static_cast<std::size_t>(Of(c).table);
      if (t >= NUM_HUFF_TBLS || !head_.has_table[t] || !tables_[t].Build(head_.tables[t])) {
        return BadImage(kFormat, "a Huffman table is missing or broken");
      }
      if (max_h_ % Of(c).h != 0 || max_v_ % Of(c).v != 0) {
        return BadImage(kFormat, "fractional sampling");
      }
    }
    const std::int64_t interval = head_.restart_interval;
    if (interval % mcus_per_row_ != 0) {
      return BadImage(kFormat, "a restart interval that is no number of rows");
    }
    std::int64_t rows_to_go = interval / mcus_per_row_;
    for (std::int64_t mcu_row = 0; mcu_row < mcu_rows_; ++mcu_row) {
      const std::int64_t rows = is_interleaved_ ? 1 : RowsOf(0, mcu_row);
      for (std::int64_t row = 0; row < rows; ++row) {
        if (interval != 0 && rows_to_go == 0) {
          if (!bits_.Restart()) return Truncated();
          StartAnew();
          rows_to_go = interval / mcus_per_row_;
        }
        ReadDifferences(row);
        if (bits_.file_ended()) return Truncated();
        --rows_to_go;
      }
      for (int i = 0; i < head_.count; ++i) {
        AddDifferences(head_.scan_order[static_cast<std::size_t>(i)], mcu_row);
      }
    }
    return bits_.ReadTail() ? absl::OkStatus() : BadImage(kFormat, "a marker behind the picture");
  }

  // One row of samples of all components beside each other.
  void Row(std::int64_t y, std::uint8_t* out) const {
    for (int c = 0; c < head_.count; ++c) {
      const Plane& plane = planes_[static_cast<std::size_t>(c)];
      const std::int64_t step = max_h_ / Of(c).h;
      const std::uint8_t* in = plane.samples.data() + y / (max_v_ / Of(c).v) * plane.width;
      const int count = head_.count;
      if (step == 1) {
        for (std::int64_t x = 0; x < width_; ++x) out[x * count + c] = in[x];
      } else {
        for (std::int64_t x = 0; x < width_; ++x) out[x * count + c] = in[x / step];
      }
    }
  }

 private:
  struct Plane {
    std::int64_t width = 0;
    std::int64_t height = 0;
    std::int64_t row_size = 0;          // of a row of MCUs
    std::vector<int> differences;       // [v, row_size]
    std::vector<int> values;            // the same, their sums
    std::vector<std::uint8_t> samples;  // [height, width]
    bool is_first_row = true;           // of the scan or of a restart interval
  };

  const Component& Of(int c) const { return head_.components[static_cast<std::size_t>(c)]; }
  static absl::Status Truncated() {
    return BadImage(kFormat, "truncated: the data ends before the last row");
  }
  std::int64_t RowsOf(int c, std::int64_t mcu_row) const {
    return std::min<std::int64_t>(Of(c).v,
                                  planes_[static_cast<std::size_t>(c)].height - mcu_row * Of(c).v);
  }
  void StartAnew() {
    for (Plane& plane : planes_) plane.is_first_row = true;
  }

  int Difference(const HuffmanTable& table) {
    const int bits = bits_.Decode(table);
    if (bits == 0) return 0;
    if (bits == 16) return 32768;
    const int value = bits_.Take(bits);
    return value < 1 << (bits - 1) ? value - (1 << bits) + 1 : value;
  }

  // One row of MCUs; of one component alone, a row of samples.
  void ReadDifferences(std::int64_t row) {
    if (bits_.ran_dry()) {
      for (int c = 0; c < head_.count; ++c) {
        Plane& plane = planes_[static_cast<std::size_t>(c)];
        const std::int64_t rows = is_interleaved_ ? Of(c).v : 1;
        std::fill_n(plane.differences.begin() + row * plane.row_size, rows * plane.row_size, 0);
      }
      return StartAnew();
    }
    for (std::int64_t mcu = 0; mcu < mcus_per_row_ && !bits_.file_ended(); ++mcu) {
      for (int i = 0; i < head_.count; ++i) {
        const int c = head_.scan_order[static_cast<std::size_t>(i)];
        Plane& plane = planes_[static_cast<std::size_t>(c)];
        const HuffmanTable& table = tables_[static_cast<std::size_t>(Of(c).table)];
        const std::int64_t rows = is_interleaved_ ? Of(c).v : 1;
        const std::int64_t columns = is_interleaved_ ? Of(c).h : 1;
        for (std::int64_t y = row; y < row + rows; ++y) {
          int* out = plane.differences.data() + y * plane.row_size + mcu * columns;
          for (std::int64_t x = 0; x < columns; ++x) out[x] = Difference(table);
        }
      }
    }
  }

  void AddDifferences(int c, std::int64_t mcu_row) {
    Plane& plane = planes_[static_cast<std::size_t>(c)];
    const int v = Of(c).v;
    for (std::int64_t row = 0; row < RowsOf(c, mcu_row); ++row) {
      const int* in = plane.differences.data() + row * plane.row_size;
      const int* above = plane.values.data() + (row == 0 ? v - 1 : row - 1) * plane.row_size;
      int* out = plane.values.data() + row * plane.row_size;
      if (plane.is_first_row) {
        AddRow<1>(in, above, 1 << (7 - head_.shift), plane.width, out);
      } else {
        AddRow(head_.predictor, in, above, above[0], plane.width, out);
      }
      plane.is_first_row = false;
      std::uint8_t* samples = plane.samples.data() + (mcu_row * v + row) * plane.width;
      for (std::int64_t x = 0; x < plane.width; ++x) {
        samples[x] = static_cast<std::uint8_t>(out[x] << head_.shift);
      }
    }
  }

  const Head& head_;
  const std::int64_t width_;
  const std::int64_t height_;
  int max_h_ = 1;
  int max_v_ = 1;
  bool is_interleaved_ = false;
  std::int64_t mcu_rows_ = 0;
  std::int64_t mcus_per_row_ = 0;
  std::array<HuffmanTable, NUM_HUFF_TBLS> tables_;
  std::array<Plane, kMaxComponents> planes_;
  BitReader bits_;
};

}  // namespace

absl::StatusOr<RgbImage> DecodeLosslessJpeg(std::string_view bytes, const JpegHeader& header) {
  std::string start(bytes.substr(0, header.scan_at));
  start[header.frame_at] = '\xC0';
  Head head;
  if (!ReadHead(reinterpret_cast<const std::uint8_t*>(start.data()), start.size(), head)) {
    return BadImage(kFormat, "broken header");
  }
  SIGLIP_RETURN_IF_ERROR(CheckHead(head, header));
  Scan scan(head, header, bytes.substr(header.scan_at));
  SIGLIP_RETURN_IF_ERROR(scan.Decode());
  RgbImage image = AllocateRgb(header.width, header.height);
  const std::size_t width = static_cast<std::size_t>(header.width);
  PixelBuffer row(width * 4);
  for (int y = 0; y < header.height; ++y) {
    std::uint8_t* out = RgbRow(image, y);
    if (header.layers == 3) {
      scan.Row(y, out);
      continue;
    }
    scan.Row(y, row.data());
    if (header.layers == 1) {
      GreyToRgb(row.data(), width, out);
    } else {
      InvertedCmykToRgb(row.data(), width, out);
    }
  }
  return image;
}

}  // namespace siglip
