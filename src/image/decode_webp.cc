// WebP through libwebp's animation decoder, as Pillow's WebPImagePlugin.py: the first frame on a
// transparent black canvas, alpha dropped. The whole file has to be there.

#include "image/byte_reader.h"
#include "image/codec.h"
#include "image/convert_rgb.h"

#include "base/status_macros.h"

#include "absl/strings/str_cat.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <webp/decode.h>
#include <webp/demux.h>

namespace siglip {
namespace {

constexpr std::string_view kFormat = "WEBP";

struct DemuxerDeleter {
  void operator()(WebPDemuxer* demuxer) const { WebPDemuxDelete(demuxer); }
};
struct AnimDecoderDeleter {
  void operator()(WebPAnimDecoder* decoder) const { WebPAnimDecoderDelete(decoder); }
};

WebPData Data(std::string_view bytes) {
  return {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()};
}

// The canvas size as the plugin reads it before it makes a decoder: bombs are refused from the
// header.
std::optional<std::pair<std::int64_t, std::int64_t>> DeclaredSize(std::string_view s) {
  const std::string_view chunk = s.substr(12, 4);
  if (chunk == "VP8 " && s.size() >= 30 && s.substr(23, 3) == "\x9d\x01\x2a") {
    return std::pair(U16Le(s, 26) & 0x3FFF, U16Le(s, 28) & 0x3FFF);
  }
  if (chunk == "VP8X" && s.size() >= 30) {
    return std::pair((U32Le(s, 24) & 0xFFFFFF) + 1, (U16Le(s, 27) | U8(s, 29) << 16) + 1);
  }
  if (chunk == "VP8L" && s.size() >= 25 && U8(s, 20) == 0x2F) {
    const std::uint32_t bits = U32Le(s, 21);
    return std::pair((bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1);
  }
  return std::nullopt;
}

absl::StatusOr<ImageHeader> ReadHeader(std::string_view bytes) {
  ImageHeader header;
  header.format = std::string(kFormat);
  if (const auto size = DeclaredSize(bytes);
      size && size->first * size->second > kPillowMaxPixels) {
    header.width = size->first;
    header.height = size->second;
    return header;
  }
  // libwebp 1.6 (Pillow's) refuses a longer head, 1.2.4 does not.
  if (bytes.substr(12, 4) == "VP8X" && bytes.size() >= 20 && U32Le(bytes, 16) != 10) {
    return BadImage(kFormat, absl::StrCat("VP8X chunk of ", U32Le(bytes, 16), " bytes"));
  }
  const WebPData data = Data(bytes);
  const std::unique_ptr<WebPDemuxer, DemuxerDeleter> demuxer(WebPDemux(&data));
  if (demuxer == nullptr) return BadImage(kFormat, "broken or truncated");
  header.width = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH);
  header.height = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT);
  if (header.width == 0 || header.height == 0 ||
      WebPDemuxGetI(demuxer.get(), WEBP_FF_FRAME_COUNT) == 0) {
    return BadImage(kFormat, "no picture in the file");
  }
  // Two RGBA canvases of the animation decoder, the frame's planes, the RGB result.
  header.working_set_bytes = header.width * header.height * 15 + (1 << 20);
  return header;
}

absl::StatusOr<RgbImage> DecodeAnimation(std::string_view bytes) {
  const WebPData data = Data(bytes);
  WebPAnimDecoderOptions options;
  if (WebPAnimDecoderOptionsInit(&options) == 0) {
    return absl::InternalError("WEBP: wrong libwebp version");
  }
  options.color_mode = MODE_RGBA;
  options.use_threads = 0;
  const std::unique_ptr<WebPAnimDecoder, AnimDecoderDeleter> decoder(
      WebPAnimDecoderNew(&data, &options));
  WebPAnimInfo info;
  if (decoder == nullptr || WebPAnimDecoderGetInfo(decoder.get(), &info) == 0) {
    return BadImage(kFormat, "broken or truncated");
  }
  std::uint8_t* rgba = nullptr;
  int timestamp = 0;
  if (WebPAnimDecoderGetNext(decoder.get(), &rgba, &timestamp) == 0) {
    return BadImage(kFormat, "the first frame does not decode");
  }
  RgbImage image = AllocateRgb(info.canvas_width, info.canvas_height);
  RgbxToRgb(rgba, image.pixels.size() / 3, image.pixels.data());
  return image;
}

// A still picture that fills its canvas: what the animation decoder would do, without its two
// canvases. Alpha is decoded though it is dropped, because damage to it refuses the file.
absl::StatusOr<RgbImage> DecodeStill(const WebPIterator& frame, bool has_alpha) {
  WebPDecoderConfig config;
  if (WebPInitDecoderConfig(&config) == 0)
    return absl::InternalError("WEBP: wrong libwebp version");
  RgbImage image = AllocateRgb(frame.width, frame.height);
  const std::size_t pixels = image.pixels.size() / 3;
  PixelBuffer rgba(has_alpha ? pixels * 4 : 0);
  config.output.colorspace = has_alpha ? MODE_RGBA : MODE_RGB;
  config.output.is_external_memory = 1;
  config.output.u.RGBA.rgba = has_alpha ? rgba.data() : image.pixels.data();
  config.output.u.RGBA.stride = frame.width * (has_alpha ? 4 : 3);
  config.output.u.RGBA.size = has_alpha ? rgba.size() : image.pixels.size();
  const VP8StatusCode status = WebPDecode(frame.fragment.bytes, frame.fragment.size, &config);
  if (status == VP8_STATUS_OUT_OF_MEMORY) {
    return absl::ResourceExhaustedError("WEBP: not enough memory");
  }
  if (status != VP8_STATUS_OK) return BadImage(kFormat, "the picture does not decode");
  if (has_alpha) RgbxToRgb(rgba.data(), pixels, image.pixels.data());
  return image;
}

absl::StatusOr<RgbImage> Decode(std::string_view bytes) {
  const WebPData data = Data(bytes);
  const std::unique_ptr<WebPDemuxer, DemuxerDeleter> demuxer(WebPDemux(&data));
  if (demuxer == nullptr) return BadImage(kFormat, "broken or truncated");
  const bool is_animated =
      (WebPDemuxGetI(demuxer.get(), WEBP_FF_FORMAT_FLAGS) & ANIMATION_FLAG) != 0;
  const std::int64_t width = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH);
  const std::int64_t height = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT);
  WebPIterator frame;
  if (WebPDemuxGetFrame(demuxer.get(), 1, &frame) == 0) return BadImage(kFormat, "no picture");
  const std::unique_ptr<WebPIterator, void (*)(WebPIterator*)> release(&frame,
                                                                       WebPDemuxReleaseIterator);
  const bool fills_canvas =
      frame.x_offset == 0 && frame.y_offset == 0 && frame.width == width && frame.height == height;
  WebPBitstreamFeatures features;
  if (is_animated || !fills_canvas ||
      WebPGetFeatures(frame.fragment.bytes, frame.fragment.size, &features) != VP8_STATUS_OK ||
      features.width != width || features.height != height) {
    return DecodeAnimation(bytes);
  }
  return DecodeStill(frame, features.has_alpha != 0);
}

bool Accepts(std::string_view bytes) {
  if (bytes.substr(0, 4) != "RIFF" || bytes.size() < 16 || bytes.substr(8, 4) != "WEBP")
    return false;
  const std::string_view chunk = bytes.substr(12, 4);
  return chunk == "VP8 " || chunk == "VP8X" || chunk == "VP8L";
}

}  // namespace

const Codec kWebpCodec = {kFormat, Accepts, ReadHeader, Decode,
                          /*library_reads_header=*/true};

}  // namespace siglip
