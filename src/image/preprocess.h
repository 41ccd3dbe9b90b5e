#pragma once

// Bytes of an image file -> the pixel tensor of the vision tower, equal bit for bit to
//   Image.open(bytes).convert("RGB").resize((S, S), resample)        Pillow 13.0.0 (or 12)
// followed by (x/255 - mean)/std in float32; of NaFlex checkpoints, to transformers'
// Siglip2ImageProcessorPil. The only entry to src/image.
// Everything here treats the bytes as hostile: no input aborts, throws or allocates past the
// limits. Errors carry the payload `siglip.image_refused` (include/siglip/siglip.h).

#include "base/aligned_buffer.h"
#include "base/pixel_limit.h"
#include "base/rgb_resizer.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

namespace siglip {

// Pillow's numbers of the two filters that SigLIP checkpoints use.
enum class Resample { kBilinear = 2, kBicubic = 3 };

// Which Pillow's resize is reproduced: 13 chooses the order of the two passes by a rule, 12 and
// older always go horizontal first (tall pictures differ).
enum class PillowVersion { k12 = 12, k13 = 13 };

// What a NaFlex checkpoint makes of a picture: the largest grid of at most max_patches patches that
// has nearly its shape.
struct PatchOptions {
  int patch_size = 16;
  int max_patches = 256;

  bool operator==(const PatchOptions&) const = default;
};

struct PreprocessOptions {
  int image_size = 224;                 // S
  std::optional<PatchOptions> patches;  // instead of image_size
  Resample resample = Resample::kBicubic;
  PillowVersion pillow = PillowVersion::k13;
  double rescale_factor = 1.0 / 255.0;
  std::array<double, 3> mean = {0.5, 0.5, 0.5};
  std::array<double, 3> std = {0.5, 0.5, 0.5};
  std::int64_t max_pixels = kPillowMaxPixels;  // width*height above this is refused from the header

  bool operator==(const PreprocessOptions&) const = default;
};

// What the header declares; nothing is decoded to learn it.
struct ImageHeader {
  std::string format;  // Pillow's name: "JPEG", "PNG", "WEBP", ...
  std::int64_t width = 0;
  std::int64_t height = 0;
  // Upper bound of the memory that decoding and resizing will take at once.
  std::int64_t working_set_bytes = 0;
};

// Bytes that are not zeroed when allocated, with kPadding readable and writable bytes after the
// last, so that vector code may run past the end. Thread-compatible. Allocation failure throws
// bad_alloc.
class PixelBuffer {
 public:
  static constexpr std::size_t kPadding = 64;  // one AVX-512 register

  PixelBuffer() = default;
  explicit PixelBuffer(std::size_t size) : bytes_(size + kPadding), size_(size) {
    std::memset(bytes_.data() + size, 0, kPadding);
  }

  std::uint8_t* data() { return bytes_.data(); }
  const std::uint8_t* data() const { return bytes_.data(); }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::uint8_t& operator[](std::size_t i) { return bytes_[i]; }
  const std::uint8_t& operator[](std::size_t i) const { return bytes_[i]; }

 private:
  AlignedBuffer<std::uint8_t> bytes_;
  std::size_t size_ = 0;
};

// 8-bit RGB, row-major [height, width, 3].
struct RgbImage {
  int width = 0;
  int height = 0;
  PixelBuffer pixels;
};

// InvalidArgument if it is no image that we open, with what was found; "too large" past max_pixels.
// Nothing is inflated to learn it: decoding may find more that is wrong.
absl::StatusOr<ImageHeader> ReadImageHeader(std::string_view bytes, std::int64_t max_pixels);

// Whether ReadImageHeader gives these bytes to a codec library. All other heads are read by code of
// this folder alone.
bool LibraryReadsHeader(std::string_view bytes);

// Image.open(bytes).convert("RGB"): first frame, EXIF orientation not applied, alpha dropped.
absl::StatusOr<RgbImage> DecodeRgb(std::string_view bytes, std::int64_t max_pixels);

struct PixelSize {
  int width = 0;
  int height = 0;
};

// What the NaFlex processor resizes a picture to: multiples of the patch size, found by bisection
// of the scale in float64. nullopt if even the smallest scale, 1e-6, makes more than max_patches of
// it. REQUIRES: all sizes are positive. Source: transformers 5.23.0 image_processing_siglip2.py,
// get_image_size_for_max_num_patches.
std::optional<PixelSize> NaflexSize(std::int64_t width, std::int64_t height,
                                    const PatchOptions& options);

struct StageTimes {
  std::int64_t decode_ns = 0;
  std::int64_t resize_ns = 0;
  std::int64_t normalize_ns = 0;
};

// Thread-safe and immutable: resampling tables of the last sizes may be cached per thread inside.
class Preprocessor {
 public:
  // resizer: resizes the pictures that it takes, with the same pixels; outlives this. Null: none.
  // REQUIRES: image_size > 0, or `patches` with sizes above 0.
  explicit Preprocessor(const PreprocessOptions& options, RgbResizer* resizer = nullptr);

  const PreprocessOptions& options() const { return options_; }

  // Floats at `pixels` below.
  std::size_t pixel_values() const;
  // ReadImageHeader with this preprocessor's limit, its working set that of this preprocessor.
  absl::StatusOr<ImageHeader> ReadHeader(std::string_view bytes) const;

  // pixels [3,S,S] float32, channel-major; of NaFlex [max_patches, patch * patch * 3], a row of the
  // grid after the other, each patch in the order (y, x, channel), rows past the grid 0. Returns
  // the size that the image was resized to. Written only on success.
  absl::StatusOr<PixelSize> Preprocess(std::string_view bytes, float* pixels) const;
  // The same; tells how long its stages took, as far as it came.
  absl::StatusOr<PixelSize> Preprocess(std::string_view bytes, float* pixels,
                                       StageTimes& times) const;

  // The same from pixels: rgb [height,width,3]. InvalidArgument for sizes that are not positive, or
  // too large.
  absl::StatusOr<PixelSize> PreprocessRgb(const std::uint8_t* rgb, std::int64_t width,
                                          std::int64_t height, float* pixels) const;
  absl::StatusOr<PixelSize> PreprocessRgb(const std::uint8_t* rgb, std::int64_t width,
                                          std::int64_t height, float* pixels,
                                          StageTimes& times) const;

  // The two halves of it, for tests and tools. Resize: REQUIRES a non-empty image.
  absl::StatusOr<RgbImage> Resize(const RgbImage& image) const;
  void Normalize(const RgbImage& resized, float* pixels) const;

 private:
  absl::StatusOr<PixelSize> TargetSize(std::int64_t width, std::int64_t height) const;
  // By resizer_. Null: the CPU's work.
  absl::StatusOr<std::optional<RgbImage>> ResizeElsewhere(const std::uint8_t* rgb,
                                                          const PixelSize& from,
                                                          const PixelSize& to) const;

  PreprocessOptions options_;
  RgbResizer* resizer_;
  // (float32(x * rescale) - mean) / std for each channel and each of the 256 values.
  std::array<std::array<float, 256>, 3> table_;
};

// Resizes made-up pictures of several shapes in every place of `resizer` and on the CPU. Internal,
// with the shape, if one is not taken or a byte differs. REQUIRES: nobody else uses it; options of
// fixed resolution.
absl::Status CheckResizer(const PreprocessOptions& options, RgbResizer& resizer);

// Names and versions of the codec libraries in use: pixels depend on them. For `siglip --version`.
std::string CodecVersions();
// The instruction set that the resize uses, which changes no pixel.
std::string ResizeTargetName();

}  // namespace siglip
