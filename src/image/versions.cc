#include "image/preprocess.h"

#include "absl/strings/str_cat.h"

#include <cstdio>

#include <avif/avif.h>
#include <jpeglib.h>
#include <lcms2.h>
#include <openjpeg.h>
#include <tiffio.h>
#include <webp/decode.h>
#include <zlib.h>

#define SIGLIP_STRING_INNER_(x) #x
#define SIGLIP_STRING_(x) SIGLIP_STRING_INNER_(x)

namespace siglip {

std::string CodecVersions() {
  return absl::StrCat("libjpeg-turbo ", SIGLIP_STRING_(LIBJPEG_TURBO_VERSION), ", zlib ",
                      zlibVersion(), ", libwebp ", WebPGetDecoderVersion() >> 16, ".",
                      WebPGetDecoderVersion() >> 8 & 255, ".", WebPGetDecoderVersion() & 255,
                      ", libtiff ", TIFFLIB_VERSION, ", libavif ", avifVersion(), ", openjpeg ",
                      opj_version(), ", lcms2 ", cmsGetEncodedCMMversion());
}

}  // namespace siglip
