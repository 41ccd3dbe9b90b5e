#include "image/preprocess.h"
#include "image/resize_kernels.h"

#include "absl/strings/str_cat.h"

#include <cstdio>

#include <jpeglib.h>
#include <webp/decode.h>
#include <zlib.h>

#define SIGLIP_STRING_INNER_(x) #x
#define SIGLIP_STRING_(x) SIGLIP_STRING_INNER_(x)

namespace siglip {

std::string CodecVersions() {
  return absl::StrCat("libjpeg-turbo ", SIGLIP_STRING_(LIBJPEG_TURBO_VERSION), ", zlib ",
                      zlibVersion(), ", libwebp ", WebPGetDecoderVersion() >> 16, ".",
                      WebPGetDecoderVersion() >> 8 & 255, ".", WebPGetDecoderVersion() & 255,
                      ", resize ", ResizeTargetName());
}

}  // namespace siglip
