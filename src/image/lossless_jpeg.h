// The lossless process of JPEG (SOF3), 8 bits a sample in one scan: libjpeg-turbo 3 (Pillow's) has
// it, 2.1 has not. Private to decode_jpeg.cc.
#pragma once

#include "image/jpeg_header.h"
#include "image/preprocess.h"

#include "absl/status/statusor.h"

#include <string_view>

namespace siglip {

// REQUIRES: `header` is of these bytes and its frame is a lossless one. libjpeg-turbo converts no
// colours of such files: YCbCr and YCCK are refused.
absl::StatusOr<RgbImage> DecodeLosslessJpeg(std::string_view bytes, const JpegHeader& header);

}  // namespace siglip
