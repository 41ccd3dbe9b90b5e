#include "image/preprocess.h"

#include "base/check.h"
#include "base/checked_math.h"
#include "base/status_macros.h"
#include "image/codec.h"
#include "image/normalize.h"
#include "image/resize.h"

#include "absl/strings/str_cat.h"

#include <algorithm>
#include <new>
#include <utility>

namespace siglip {
namespace {

absl::Status NoMemory() {
  return absl::ResourceExhaustedError("image: not enough memory to decode and resize it");
}

// Runs what may throw bad_alloc.
template <class Result, class Function>
Result WithoutThrowing(Function&& function) {
  try {
    return function();
  } catch (const std::bad_alloc&) {
    return NoMemory();
  }
}

absl::StatusOr<const Codec*> FindCodec(std::string_view bytes) {
  if (bytes.empty())
    return absl::InvalidArgumentError("image: expected an image file, got 0 bytes");
  for (const Codec& codec : AllCodecs()) {
    if (codec.Accepts(bytes)) return &codec;
  }
  std::string start;
  for (const char c : bytes.substr(0, 8)) {
    absl::StrAppend(&start, " ", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
  }
  return absl::InvalidArgumentError(absl::StrCat("image: expected an image file, got ",
                                                 bytes.size(), " bytes that start with", start));
}

absl::StatusOr<ImageHeader> CheckedHeader(const Codec& codec, std::string_view bytes,
                                          std::int64_t max_pixels) {
  SIGLIP_ASSIGN_OR_RETURN(ImageHeader header, codec.ReadHeader(bytes));
  const std::int64_t limit = std::min(max_pixels, kPillowMaxPixels);
  const std::optional<std::int64_t> pixels = CheckedMul(header.width, header.height);
  if (!pixels || *pixels > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(codec.name), ": image is too large: ", header.width, "x",
                     header.height, ", the limit is ", limit, " pixels"));
  }
  return header;
}

absl::StatusOr<RgbImage> Decode(std::string_view bytes, std::int64_t max_pixels) {
  SIGLIP_ASSIGN_OR_RETURN(const Codec* codec, FindCodec(bytes));
  SIGLIP_RETURN_IF_ERROR(CheckedHeader(*codec, bytes, max_pixels).status());
  return codec->Decode(bytes);
}

// The scratch of a resize to the largest published size; the caller's size is not known here.
constexpr int kLargestImageSize = 512;

}  // namespace

absl::StatusOr<ImageHeader> ReadImageHeader(std::string_view bytes, std::int64_t max_pixels) {
  return WithoutThrowing<absl::StatusOr<ImageHeader>>([&]() -> absl::StatusOr<ImageHeader> {
    SIGLIP_ASSIGN_OR_RETURN(const Codec* codec, FindCodec(bytes));
    SIGLIP_ASSIGN_OR_RETURN(ImageHeader header, CheckedHeader(*codec, bytes, max_pixels));
    header.working_set_bytes +=
        ResizeScratchBytes(header.width, header.height, kLargestImageSize, kLargestImageSize) +
        std::int64_t{kLargestImageSize} * kLargestImageSize * 3;
    return header;
  });
}

absl::StatusOr<RgbImage> DecodeRgb(std::string_view bytes, std::int64_t max_pixels) {
  return WithoutThrowing<absl::StatusOr<RgbImage>>([&] { return Decode(bytes, max_pixels); });
}

Preprocessor::Preprocessor(const PreprocessOptions& options) : options_(options) {
  SIGLIP_CHECK(options.image_size > 0);
  for (std::size_t c = 0; c < table_.size(); ++c) {
    table_[c] = NormalizeTable(options.rescale_factor, options.mean[c], options.std[c]);
  }
}

absl::Status Preprocessor::Preprocess(std::string_view bytes, float* pixels) const {
  return WithoutThrowing<absl::Status>([&]() -> absl::Status {
    SIGLIP_ASSIGN_OR_RETURN(const RgbImage image, Decode(bytes, options_.max_pixels));
    SIGLIP_ASSIGN_OR_RETURN(const RgbImage resized, Resize(image));
    Normalize(resized, pixels);
    return absl::OkStatus();
  });
}

absl::StatusOr<RgbImage> Preprocessor::Resize(const RgbImage& image) const {
  return WithoutThrowing<absl::StatusOr<RgbImage>>([&] {
    return ResizeRgb(image, options_.image_size, options_.image_size, options_.resample,
                     options_.pillow);
  });
}

void Preprocessor::Normalize(const RgbImage& resized, float* pixels) const {
  NormalizeRgb(resized, table_, pixels);
}

}  // namespace siglip
