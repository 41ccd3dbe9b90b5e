#pragma once

// One file format: how its content is recognised, its header read, its first frame decoded to RGB.
// Private to src/image; decode_*.cc implement it, codec_table.cc lists them in Pillow's order.
// Functions may throw std::bad_alloc, which preprocess.cc turns into ResourceExhausted.

#include "image/preprocess.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace siglip {

struct Codec {
  std::string_view name;  // Pillow's
  bool (*Accepts)(std::string_view bytes);
  // Fills everything but the scratch memory of the resize. The size is positive on success.
  absl::StatusOr<ImageHeader> (*ReadHeader)(std::string_view bytes);
  // REQUIRES: ReadHeader succeeded and its size is within the caller's limit.
  absl::StatusOr<RgbImage> (*Decode)(std::string_view bytes);
  bool library_reads_header = false;
};

std::span<const Codec> AllCodecs();

extern const Codec kAvifCodec;
extern const Codec kBmpCodec;
extern const Codec kGifCodec;
extern const Codec kJp2Codec;
extern const Codec kJpegCodec;
extern const Codec kPngCodec;
extern const Codec kPnmCodec;
extern const Codec kTiffCodec;
extern const Codec kWebpCodec;

// InvalidArgument "FORMAT: what" on one line: libraries write some of their messages on two.
absl::Status BadImage(std::string_view format, std::string_view what);

// Uninitialised pixels. REQUIRES: a positive size within kPillowMaxPixels.
RgbImage AllocateRgb(std::int64_t width, std::int64_t height);

inline std::uint8_t* RgbRow(RgbImage& image, std::int64_t y) {
  return image.pixels.data() +
         static_cast<std::size_t>(y) * static_cast<std::size_t>(image.width) * 3;
}

}  // namespace siglip
