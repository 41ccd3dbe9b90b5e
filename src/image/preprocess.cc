#include "image/preprocess.h"

#include "base/absl_view.h"
#include "base/check.h"
#include "base/checked_math.h"
#include "base/clock.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "image/codec.h"
#include "image/normalize.h"
#include "image/resize.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace siglip {
namespace {

// The payload's name in include/siglip/siglip.h, which this folder does not know.
constexpr char kRefusedPayload[] = "siglip.image_refused";

absl::Status Refused(const char* reason, absl::Status status) {
  const bool no_memory = status.code() == absl::StatusCode::kResourceExhausted;
  status.SetPayload(kRefusedPayload, absl::Cord(no_memory ? "no_memory" : reason));
  return status;
}

absl::Status NoMemory() {
  return Refused("no_memory",
                 absl::ResourceExhaustedError("image: not enough memory to decode and resize it"));
}

// What the codec says of its file.
template <class T>
absl::StatusOr<T> OrDamaged(absl::StatusOr<T> result) {
  if (result.ok()) return result;
  return Refused("damaged", result.status());
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

// By the brands of its first box. Those of AVIF may have "mif1" in front of them too.
bool IsHeic(std::string_view bytes) {
  if (bytes.size() < 16 || bytes.substr(4, 4) != "ftyp") return false;
  bool heic = false;
  const std::size_t box_bytes = static_cast<unsigned char>(bytes[3]);  // real ones have below 100
  for (std::size_t at = 8; at + 4 <= std::min(box_bytes, bytes.size()); at += 4) {
    const std::string_view brand = bytes.substr(at, 4);
    if (brand == "avif" || brand == "avis") return false;
    heic |= brand.starts_with("hei") || brand.starts_with("hev");
  }
  return heic;
}

// What people take for a picture, and what to do about it; "" for anything else.
std::string_view AdviceFor(std::string_view bytes) {
  if (IsHeic(bytes)) {
    return "HEIC, as iPhones write it, which is not taken: convert it to JPEG or PNG (or choose "
           "Settings > Camera > Formats > Most Compatible)";
  }
  if (IsGitLfsPointer(bytes)) return kGitLfsAdvice;
  if (bytes.starts_with("%PDF-")) return "a PDF, which is not taken: convert its pages to PNG";
  if (bytes.starts_with("<svg")) return "SVG, which is not taken: convert it to PNG";
  return "";
}

absl::StatusOr<const Codec*> FindCodec(std::string_view bytes) {
  if (bytes.empty())
    return Refused("empty",
                   absl::InvalidArgumentError("image: expected an image file, got 0 bytes"));
  if (const std::string_view advice = AdviceFor(bytes); !advice.empty()) {
    return Refused("unknown_format", absl::InvalidArgumentError(absl::StrCat(
                                         "image: expected an image file, got ", AbslView(advice))));
  }
  for (const Codec& codec : AllCodecs()) {
    if (codec.Accepts(bytes)) return &codec;
  }
  std::string start;
  for (const char c : bytes.substr(0, 8)) {
    absl::StrAppend(&start, " ", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
  }
  return Refused("unknown_format", absl::InvalidArgumentError(absl::StrCat(
                                       "image: expected an image file, got ", bytes.size(),
                                       " bytes that start with", start)));
}

absl::Status CheckPixelCount(std::string_view format, std::int64_t width, std::int64_t height,
                             std::int64_t max_pixels) {
  const std::int64_t limit = std::min(max_pixels, kPillowMaxPixels);
  const std::optional<std::int64_t> pixels = CheckedMul(width, height);
  if (pixels && *pixels <= limit) return absl::OkStatus();
  return Refused("too_large", absl::InvalidArgumentError(
                                  absl::StrCat(std::string(format), ": image is too large: ", width,
                                               "x", height, ", the limit is ", limit, " pixels")));
}

absl::StatusOr<ImageHeader> CheckedHeader(const Codec& codec, std::string_view bytes,
                                          std::int64_t max_pixels) {
  SIGLIP_ASSIGN_OR_RETURN(ImageHeader header, OrDamaged(codec.ReadHeader(bytes)));
  SIGLIP_RETURN_IF_ERROR(CheckPixelCount(codec.name, header.width, header.height, max_pixels));
  return header;
}

absl::StatusOr<RgbImage> Decode(std::string_view bytes, std::int64_t max_pixels) {
  SIGLIP_ASSIGN_OR_RETURN(const Codec* codec, FindCodec(bytes));
  SIGLIP_RETURN_IF_ERROR(CheckedHeader(*codec, bytes, max_pixels).status());
  return OrDamaged(codec->Decode(bytes));
}

// The scratch of a resize to the largest published size; the caller's size is not known here.
constexpr int kLargestImageSize = 512;

// What resizing takes beside the decoded image.
std::int64_t ResizeBytes(const ImageHeader& header, const PixelSize& to) {
  return ResizeScratchBytes(header.width, header.height, to.width, to.height) +
         std::int64_t{to.width} * to.height * 3;
}

}  // namespace

absl::StatusOr<ImageHeader> ReadImageHeader(std::string_view bytes, std::int64_t max_pixels) {
  return WithoutThrowing<absl::StatusOr<ImageHeader>>([&]() -> absl::StatusOr<ImageHeader> {
    SIGLIP_ASSIGN_OR_RETURN(const Codec* codec, FindCodec(bytes));
    SIGLIP_ASSIGN_OR_RETURN(ImageHeader header, CheckedHeader(*codec, bytes, max_pixels));
    header.working_set_bytes +=
        ResizeBytes(header, {.width = kLargestImageSize, .height = kLargestImageSize});
    return header;
  });
}

bool LibraryReadsHeader(std::string_view bytes) {
  for (const Codec& codec : AllCodecs()) {
    if (codec.Accepts(bytes)) return codec.library_reads_header;
  }
  return false;
}

absl::StatusOr<RgbImage> DecodeRgb(std::string_view bytes, std::int64_t max_pixels) {
  return WithoutThrowing<absl::StatusOr<RgbImage>>([&] { return Decode(bytes, max_pixels); });
}

Preprocessor::Preprocessor(const PreprocessOptions& options, RgbResizer* resizer)
    : options_(options), resizer_(resizer) {
  SIGLIP_CHECK(options.patches ? options.patches->patch_size > 0 && options.patches->max_patches > 0
                               : options.image_size > 0);
  for (std::size_t c = 0; c < table_.size(); ++c) {
    table_[c] = NormalizeTable(options.rescale_factor, options.mean[c], options.std[c]);
  }
}

std::size_t Preprocessor::pixel_values() const {
  if (options_.patches) {
    const std::size_t patch = static_cast<std::size_t>(options_.patches->patch_size);
    return static_cast<std::size_t>(options_.patches->max_patches) * patch * patch * 3;
  }
  const std::size_t side = static_cast<std::size_t>(options_.image_size);
  return 3 * side * side;
}

absl::StatusOr<PixelSize> Preprocessor::TargetSize(std::int64_t width, std::int64_t height) const {
  if (!options_.patches) return PixelSize{options_.image_size, options_.image_size};
  const std::optional<PixelSize> size = NaflexSize(width, height, *options_.patches);
  if (size) return *size;
  return Refused("too_large",
                 absl::InvalidArgumentError(absl::StrCat(
                     "image: ", width, "x", height, " pixels cannot be shown in ",
                     options_.patches->max_patches, " patches of ", options_.patches->patch_size)));
}

absl::StatusOr<ImageHeader> Preprocessor::ReadHeader(std::string_view bytes) const {
  return WithoutThrowing<absl::StatusOr<ImageHeader>>([&]() -> absl::StatusOr<ImageHeader> {
    SIGLIP_ASSIGN_OR_RETURN(const Codec* codec, FindCodec(bytes));
    SIGLIP_ASSIGN_OR_RETURN(ImageHeader header, CheckedHeader(*codec, bytes, options_.max_pixels));
    SIGLIP_ASSIGN_OR_RETURN(const PixelSize size, TargetSize(header.width, header.height));
    header.working_set_bytes += ResizeBytes(header, size);
    return header;
  });
}

absl::StatusOr<PixelSize> Preprocessor::Preprocess(std::string_view bytes, float* pixels) const {
  StageTimes times;
  return Preprocess(bytes, pixels, times);
}

absl::StatusOr<PixelSize> Preprocessor::Preprocess(std::string_view bytes, float* pixels,
                                                   StageTimes& times) const {
  return WithoutThrowing<absl::StatusOr<PixelSize>>([&]() -> absl::StatusOr<PixelSize> {
    const std::int64_t start_ns = SteadyNowNs();
    SIGLIP_ASSIGN_OR_RETURN(const RgbImage image, Decode(bytes, options_.max_pixels));
    const std::int64_t decoded_ns = SteadyNowNs();
    times.decode_ns = decoded_ns - start_ns;
    SIGLIP_ASSIGN_OR_RETURN(const RgbImage resized, Resize(image));
    const std::int64_t resized_ns = SteadyNowNs();
    times.resize_ns = resized_ns - decoded_ns;
    Normalize(resized, pixels);
    times.normalize_ns = SteadyNowNs() - resized_ns;
    return PixelSize{resized.width, resized.height};
  });
}

absl::StatusOr<PixelSize> Preprocessor::PreprocessRgb(const std::uint8_t* rgb, std::int64_t width,
                                                      std::int64_t height, float* pixels) const {
  StageTimes times;
  return PreprocessRgb(rgb, width, height, pixels, times);
}

absl::StatusOr<PixelSize> Preprocessor::PreprocessRgb(const std::uint8_t* rgb, std::int64_t width,
                                                      std::int64_t height, float* pixels,
                                                      StageTimes& times) const {
  if (width < 1 || height < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("RGB: expected a width and a height above 0, got ", width, "x", height));
  }
  SIGLIP_RETURN_IF_ERROR(CheckPixelCount("RGB", width, height, options_.max_pixels));
  return WithoutThrowing<absl::StatusOr<PixelSize>>([&]() -> absl::StatusOr<PixelSize> {
    const std::int64_t start_ns = SteadyNowNs();
    const PixelSize from{static_cast<int>(width), static_cast<int>(height)};
    SIGLIP_ASSIGN_OR_RETURN(const PixelSize to, TargetSize(width, height));
    SIGLIP_ASSIGN_OR_RETURN(std::optional<RgbImage> resized, ResizeElsewhere(rgb, from, to));
    if (!resized) {
      RgbImage image;
      image.width = from.width;
      image.height = from.height;
      image.pixels = PixelBuffer(static_cast<std::size_t>(width * height * 3));
      std::memcpy(image.pixels.data(), rgb, image.pixels.size());
      SIGLIP_ASSIGN_OR_RETURN(
          resized, ResizeRgb(image, to.width, to.height, options_.resample, options_.pillow));
    }
    const std::int64_t resized_ns = SteadyNowNs();
    times.resize_ns = resized_ns - start_ns;
    Normalize(*resized, pixels);
    times.normalize_ns = SteadyNowNs() - resized_ns;
    return to;
  });
}

absl::StatusOr<RgbImage> Preprocessor::Resize(const RgbImage& image) const {
  return WithoutThrowing<absl::StatusOr<RgbImage>>([&]() -> absl::StatusOr<RgbImage> {
    SIGLIP_ASSIGN_OR_RETURN(const PixelSize size, TargetSize(image.width, image.height));
    SIGLIP_ASSIGN_OR_RETURN(
        std::optional<RgbImage> elsewhere,
        ResizeElsewhere(image.pixels.data(), {image.width, image.height}, size));
    if (elsewhere) return *std::move(elsewhere);
    return ResizeRgb(image, size.width, size.height, options_.resample, options_.pillow);
  });
}

absl::StatusOr<std::optional<RgbImage>> Preprocessor::ResizeElsewhere(const std::uint8_t* rgb,
                                                                      const PixelSize& from,
                                                                      const PixelSize& to) const {
  if (resizer_ == nullptr || !resizer_->Takes(from.width, from.height)) return std::nullopt;
  return ResizeRgbBy(*resizer_, rgb, from, to, options_.resample, options_.pillow);
}

void Preprocessor::Normalize(const RgbImage& resized, float* pixels) const {
  if (!options_.patches) {
    NormalizeRgb(resized, table_, pixels);
    return;
  }
  float* const end = NormalizePatches(resized, options_.patches->patch_size, table_, pixels);
  std::fill(end, pixels + pixel_values(), 0.0f);
}

}  // namespace siglip
