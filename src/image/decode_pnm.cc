// PBM, PGM, PPM (plain and raw), Pf, and Pillow's own PyP, PyRGBA, PyCMYK, P0CMYK, as
// PpmImagePlugin.py reads them.

#include "image/byte_reader.h"
#include "image/codec.h"
#include "image/raw_modes.h"

#include "base/status_macros.h"

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "PPM";
constexpr std::size_t kBlock =
    1 << 20;  // Pillow's SAFEBLOCK: plain data are checked block by block
constexpr std::size_t kMaxToken = 10;

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

struct Pnm {
  std::string magic;
  std::string mode;
  std::int64_t width = 0;
  std::int64_t height = 0;
  std::int64_t maxval = 255;
  bool float_is_little = false;
  std::size_t data_position = 0;

  bool is_plain() const { return magic == "P1" || magic == "P2" || magic == "P3"; }
};

// Python's int(): sign, digits, single underscores between digits.
std::optional<std::int64_t> ParsePythonInt(std::string_view token) {
  bool is_negative = false;
  if (!token.empty() && (token[0] == '+' || token[0] == '-')) {
    is_negative = token[0] == '-';
    token.remove_prefix(1);
  }
  std::int64_t value = 0;
  bool last_is_digit = false;
  for (const char c : token) {
    if (c == '_' && last_is_digit) {
      last_is_digit = false;
      continue;
    }
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + (c - '0');  // tokens have 10 characters at most
    last_is_digit = true;
  }
  if (!last_is_digit) return std::nullopt;
  return is_negative ? -value : value;
}

// Python's float(): single underscores between digits; no hexadecimal digits.
std::optional<double> ParsePythonFloat(std::string_view token) {
  if (token.find_first_of("xX") != std::string_view::npos) return std::nullopt;
  std::string digits;
  for (std::size_t i = 0; i < token.size(); ++i) {
    if (token[i] == '_') {
      const bool is_between =
          i > 0 && absl::ascii_isdigit(static_cast<unsigned char>(token[i - 1])) &&
          i + 1 < token.size() && absl::ascii_isdigit(static_cast<unsigned char>(token[i + 1]));
      if (!is_between) return std::nullopt;
      continue;
    }
    digits += token[i];
  }
  double value = 0;
  if (!absl::SimpleAtod(digits, &value)) return std::nullopt;
  return value;
}

absl::StatusOr<std::string> ReadToken(ByteReader& reader) {
  std::string token;
  while (token.size() <= kMaxToken) {
    const std::string_view c = reader.Read(1);
    if (c.empty()) break;
    if (IsSpace(c[0])) {
      if (token.empty()) continue;
      break;
    }
    if (c[0] == '#') {
      while (true) {
        const std::string_view skipped = reader.Read(1);
        if (skipped.empty() || skipped[0] == '\r' || skipped[0] == '\n') break;
      }
      continue;
    }
    token += c[0];
  }
  if (token.empty()) return BadImage(kFormat, "truncated header");
  if (token.size() > kMaxToken)
    return BadImage(kFormat, "a header field of more than 10 characters");
  return token;
}

absl::StatusOr<std::int64_t> ReadInt(ByteReader& reader, std::string_view what) {
  SIGLIP_ASSIGN_OR_RETURN(const std::string token, ReadToken(reader));
  const std::optional<std::int64_t> value = ParsePythonInt(token);
  if (!value) return BadImage(kFormat, std::string(what) + " is no number");
  return *value;
}

std::string ReadMagic(ByteReader& reader) {
  std::string magic;
  for (int i = 0; i < 6; ++i) {
    const std::string_view c = reader.Read(1);
    if (c.empty() || IsSpace(c[0])) break;
    magic += c[0];
  }
  return magic;
}

std::string_view ModeOf(std::string_view magic) {
  static constexpr struct {
    std::string_view magic, mode;
  } kModes[] = {{"P1", "1"},  {"P2", "L"},        {"P3", "RGB"},      {"P4", "1"},
                {"P5", "L"},  {"P6", "RGB"},      {"P0CMYK", "CMYK"}, {"Pf", "F"},
                {"PyP", "P"}, {"PyRGBA", "RGBA"}, {"PyCMYK", "CMYK"}};
  for (const auto& row : kModes) {
    if (row.magic == magic) return row.mode;
  }
  return {};
}

absl::StatusOr<Pnm> ReadPnm(std::string_view bytes) {
  ByteReader reader(bytes);
  Pnm pnm;
  pnm.magic = ReadMagic(reader);
  pnm.mode = std::string(ModeOf(pnm.magic));
  if (pnm.mode.empty()) return BadImage(kFormat, "unknown kind");
  SIGLIP_ASSIGN_OR_RETURN(pnm.width, ReadInt(reader, "width"));
  SIGLIP_ASSIGN_OR_RETURN(pnm.height, ReadInt(reader, "height"));
  if (pnm.mode == "F") {
    SIGLIP_ASSIGN_OR_RETURN(const std::string token, ReadToken(reader));
    const std::optional<double> scale = ParsePythonFloat(token);
    if (!scale || *scale == 0.0 || !std::isfinite(*scale)) {
      return BadImage(kFormat, "scale is not finite and non-zero");
    }
    pnm.float_is_little = *scale < 0;
  } else if (pnm.mode != "1") {
    SIGLIP_ASSIGN_OR_RETURN(pnm.maxval, ReadInt(reader, "maxval"));
    if (pnm.maxval <= 0 || pnm.maxval >= 65536) {
      return BadImage(kFormat, absl::StrCat("maxval ", pnm.maxval, ", expected 1 to 65535"));
    }
    if (pnm.maxval > 255 && pnm.mode == "L") pnm.mode = "I";
  }
  if (pnm.width <= 0 || pnm.height <= 0) {
    return BadImage(kFormat, absl::StrCat("size ", pnm.width, "x", pnm.height));
  }
  pnm.data_position = reader.position();
  return pnm;
}

absl::StatusOr<ImageHeader> ReadHeader(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const Pnm pnm, ReadPnm(bytes));
  ImageHeader header;
  header.format = std::string(kFormat);
  header.width = pnm.width;
  header.height = pnm.height;
  if (pnm.width <= kPillowMaxPixels && pnm.height <= kPillowMaxPixels) {
    // Plain data and odd maxvals go through one byte a sample first.
    header.working_set_bytes = header.width * header.height * 7 + (4 << 20);
  }
  return header;
}

int Bands(const std::string& mode) {
  if (mode == "RGB") return 3;
  return mode == "RGBA" || mode == "CMYK" ? 4 : 1;
}

// round(value / maxval * out_max) as Python computes it, half to even.
std::uint8_t ScaleSample(std::int64_t value, const Pnm& pnm) {
  const double out_max = pnm.mode == "I" ? 65535.0 : 255.0;
  const double scaled =
      std::nearbyint(static_cast<double>(value) / static_cast<double>(pnm.maxval) * out_max);
  return static_cast<std::uint8_t>(std::min(scaled, 255.0));  // mode I is clipped to 255 in the end
}

// One byte a sample, already scaled -> RGB.
absl::StatusOr<RgbImage> FromBytes(const std::vector<std::uint8_t>& samples, const Pnm& pnm) {
  const std::size_t bands = static_cast<std::size_t>(Bands(pnm.mode));
  if (samples.size() < static_cast<std::size_t>(pnm.width * pnm.height) * bands) {
    return BadImage(kFormat, "truncated: not enough image data");
  }
  const std::string_view layout = pnm.mode == "I" ? "L" : std::string_view(pnm.mode);
  const RawMode* raw = FindRawMode(layout, layout == "1" ? "1;8" : layout);
  if (raw == nullptr) return BadImage(kFormat, "unsupported layout");
  RgbImage image = AllocateRgb(pnm.width, pnm.height);
  raw->to_rgb(samples.data(), static_cast<std::size_t>(pnm.width * pnm.height), Palette(),
              image.pixels.data());
  return image;
}

// Blocks of plain data with the comments cut out as Pillow cuts them.
class PlainBlocks {
 public:
  explicit PlainBlocks(ByteReader reader) : reader_(reader) {}

  std::string NextRaw() { return std::string(reader_.Read(kBlock)); }

  std::string WithoutComments(std::string block) {
    while (in_comment_ && !block.empty()) {
      const std::size_t end = CommentEnd(block, 0);
      if (end != std::string::npos) {
        block.erase(0, end + 1);
        break;
      }
      block = NextRaw();
    }
    in_comment_ = false;
    while (true) {
      const std::size_t start = block.find('#');
      if (start == std::string::npos) return block;
      const std::size_t end = CommentEnd(block, start);
      if (end == std::string::npos) {
        block.erase(start);
        in_comment_ = true;
        return block;
      }
      block.erase(start, end + 1 - start);
    }
  }

 private:
  static std::size_t CommentEnd(const std::string& block, std::size_t start) {
    const std::size_t a = block.find('\n', start);
    const std::size_t b = block.find('\r', start);
    // At 0 the product of the indices is 0 and Pillow takes the larger.
    if (a == std::string::npos) return b;
    if (b == std::string::npos) return a;
    return a == 0 || b == 0 ? std::max(a, b) : std::min(a, b);
  }

  ByteReader reader_;
  bool in_comment_ = false;
};

absl::StatusOr<std::vector<std::uint8_t>> ReadPlainBits(ByteReader reader, std::size_t total) {
  PlainBlocks blocks(reader);
  std::vector<std::uint8_t> samples;
  while (samples.size() != total) {
    std::string block = blocks.NextRaw();
    if (block.empty()) break;
    for (const char c : blocks.WithoutComments(std::move(block))) {
      if (IsSpace(c)) continue;
      if (c != '0' && c != '1') return BadImage(kFormat, "a pixel that is neither 0 nor 1");
      if (samples.size() < total) samples.push_back(c == '1' ? 0 : 255);
    }
  }
  return samples;
}

absl::Status AddPlainSample(std::string_view token, const Pnm& pnm,
                            std::vector<std::uint8_t>& samples) {
  if (token.size() > kMaxToken) return BadImage(kFormat, "a sample of more than 10 characters");
  const std::optional<std::int64_t> value = ParsePythonInt(token);
  if (!value || *value < 0 || *value > pnm.maxval) {
    return BadImage(kFormat, absl::StrCat("a sample is no number from 0 to ", pnm.maxval));
  }
  samples.push_back(ScaleSample(*value, pnm));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::uint8_t>> ReadPlainSamples(ByteReader reader, std::size_t total,
                                                           const Pnm& pnm) {
  PlainBlocks blocks(reader);
  std::vector<std::uint8_t> samples;
  std::string half_token;
  while (samples.size() != total) {
    std::string block = blocks.NextRaw();
    if (block.empty()) {
      if (half_token.empty()) break;
      block.assign(1, ' ');
    }
    block = blocks.WithoutComments(std::move(block));
    block.insert(0, half_token);
    half_token.clear();
    std::size_t end = block.size();
    while (end > 0 && !IsSpace(block[end - 1])) --end;
    if (end < block.size()) {
      half_token = block.substr(end);
      if (half_token.size() > kMaxToken) {
        return BadImage(kFormat, "a sample of more than 10 characters");
      }
    }
    for (std::size_t at = 0; at < end && samples.size() != total;) {
      if (IsSpace(block[at])) {
        ++at;
        continue;
      }
      std::size_t stop = at;
      while (!IsSpace(block[stop])) ++stop;
      SIGLIP_RETURN_IF_ERROR(
          AddPlainSample(std::string_view(block).substr(at, stop - at), pnm, samples));
      at = stop;
    }
  }
  return samples;
}

// Raw samples of a maxval other than the depth's own.
std::vector<std::uint8_t> ReadScaledSamples(std::string_view data, std::size_t total,
                                            const Pnm& pnm) {
  const std::size_t size = pnm.maxval < 256 ? 1 : 2;
  const std::size_t available = std::min(total, data.size() / size);
  std::vector<std::uint8_t> samples(available);
  for (std::size_t i = 0; i < available; ++i) {
    samples[i] = ScaleSample(size == 1 ? U8(data, i) : U16Be(data, 2 * i), pnm);
  }
  return samples;
}

std::string_view RawLayout(const Pnm& pnm) {
  if (pnm.mode == "1") return "1;I";
  if (pnm.mode == "F") return pnm.float_is_little ? "F;32F" : "F;32BF";
  return pnm.mode == "I" ? "I;16B" : std::string_view(pnm.mode);
}

absl::StatusOr<RgbImage> FromRaw(std::string_view data, const Pnm& pnm) {
  const RawMode* raw = FindRawMode(pnm.mode, RawLayout(pnm));
  if (raw == nullptr) return BadImage(kFormat, "unsupported layout");
  const std::int64_t row_bytes = RawRowBytes(*raw, pnm.width);
  if (static_cast<std::int64_t>(data.size()) < row_bytes * pnm.height) {
    return BadImage(kFormat, absl::StrCat("truncated: expected ", row_bytes * pnm.height,
                                          " bytes of pixels, got ", data.size()));
  }
  RgbImage image = AllocateRgb(pnm.width, pnm.height);
  const auto* in = reinterpret_cast<const std::uint8_t*>(data.data());
  for (std::int64_t y = 0; y < pnm.height; ++y, in += row_bytes) {
    const std::int64_t row = pnm.mode == "F" ? pnm.height - 1 - y : y;
    raw->to_rgb(in, static_cast<std::size_t>(pnm.width), Palette(), RgbRow(image, row));
  }
  return image;
}

absl::StatusOr<RgbImage> Decode(std::string_view bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const Pnm pnm, ReadPnm(bytes));
  ByteReader reader(bytes);
  reader.Seek(pnm.data_position);
  const std::size_t total =
      static_cast<std::size_t>(pnm.width * pnm.height) * static_cast<std::size_t>(Bands(pnm.mode));
  if (pnm.is_plain()) {
    SIGLIP_ASSIGN_OR_RETURN(
        const std::vector<std::uint8_t> samples,
        pnm.mode == "1" ? ReadPlainBits(reader, total) : ReadPlainSamples(reader, total, pnm));
    return FromBytes(samples, pnm);
  }
  const std::string_view data = bytes.substr(pnm.data_position);
  const bool is_scaled = pnm.maxval != 255 && !(pnm.maxval == 65535 && pnm.mode == "I");
  if (is_scaled) return FromBytes(ReadScaledSamples(data, total, pnm), pnm);
  return FromRaw(data, pnm);
}

bool Accepts(std::string_view bytes) {
  return bytes.size() >= 2 && bytes[0] == 'P' &&
         std::string_view("0123456fy").find(bytes[1]) != std::string_view::npos;
}

}  // namespace

const Codec kPnmCodec = {kFormat, Accepts, ReadHeader, Decode};

}  // namespace siglip
