#pragma once

// siglip.cpp: SigLIP image and text embeddings, equal to Hugging Face transformers and Pillow.
//
//   auto model = siglip::Model::Open("models/demo");
//   auto embedding = (*model)->EmbedImage(bytes_of_a_jpeg);   // [D] float32, not normalised
//   auto text = (*model)->EmbedText("a photo of a cat");
//
// Errors are absl::Status; nothing here throws, prints or exits. (Warnings go to stderr; a program
// that uses spdlog keeps its own default logger.)

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace siglip {

struct ModelOptions {
  int num_threads = 0;         // engine threads; 0 = one per core
  int max_batch_size = 32;     // items per pass through a tower; more are run in several passes
  int pillow = 13;             // whose resize is reproduced: 12 or 13
  // width*height of an image; 0 = Pillow's own limit, 178,956,970, which is the most.
  std::int64_t max_pixels = 0;
  // NaFlex only: patches that an image is shown in at most, up to 65,536; 0 = what the checkpoint says,
  // usually 256. More is sharper and slower.
  std::int64_t max_patches = 0;
  // Of a CPU "fp32", "int16" (faster, half the memory, 1 - cosine to fp32 about 1e-7 with usual
  // weights), "int8" (faster still and coarser; needs VNNI or AMX), "bf16" (needs AMX), or "auto":
  // int16 where it is faster and within 1e-5 with this checkpoint, which is checked at load, else
  // fp32. Of a GPU "bf16", "fp16", "fp8", or "auto": bf16. A GPU is checked against the CPU at load.
  std::string precision = "auto";
  std::string device = "auto";     // "auto", "cpu", "cuda" (the first GPU) or "cuda:0,1"
  // GPUs resize pictures of up to 16 Mi pixels, with the same pixels as the CPU, and check that at load;
  // the CPU does those that come while they are busy. InvalidArgument where a CPU encodes.
  bool gpu_resize = false;
  // Instruction set of the kernels: "auto" or "avx512", "avx2", ... One per process.
  std::string isa = "auto";
  // Folder that keeps packed weights between starts, so that the next one only maps them; made if it
  // is not there, safe to delete at any time. Empty: none.
  std::string cache_dir = {};
};

// How a picture becomes pixels: what the checkpoint's preprocessor_config.json and the options say.
struct PixelRecipe {
  int resample = 3;  // Pillow's number: 2 bilinear, 3 bicubic
  int pillow = 13;
  double rescale_factor = 0;
  std::array<double, 3> mean = {};
  std::array<double, 3> std = {};
  std::int64_t max_pixels = 0;
};

struct ModelInfo {
  std::string directory;
  std::int64_t image_size = 0;      // S: pixels are [3,S,S]; 0: NaFlex
  std::int64_t patch_size = 0;      // p
  std::int64_t max_patches = 0;     // N of NaFlex: pixels are [N, p*p*3]; 0: of fixed resolution
  std::int64_t embedding_size = 0;  // D
  std::int64_t text_length = 0;     // T: ids per text
  std::int64_t vocab_size = 0;
  float logit_scale = 0;            // as stored: the logit is cos * exp(logit_scale) + logit_bias
  float logit_bias = 0;
  std::string engine;               // device, instruction set, precision, threads
  std::string precision_choice;     // what "auto" chose on a CPU and why; empty otherwise
  std::vector<int> gpus;            // that encode; empty: the CPU does
  bool gpu_resize = false;          // they resize too: see ModelOptions
  PixelRecipe pixels;

  bool naflex() const { return max_patches > 0; }
  // Floats of an image's pixels.
  std::size_t pixel_values() const {
    return static_cast<std::size_t>(naflex() ? max_patches * patch_size * patch_size * 3
                                             : 3 * image_size * image_size);
  }
};

// Rows and columns of the patches that an image is shown in. NaFlex: rows * columns <= max_patches;
// fixed resolution: always image_size / patch_size of each.
struct PatchGrid {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

// Pixels for the vision tower, borrowed.
struct ImagePixels {
  // [3,S,S]. NaFlex: [N, p*p*3], a row of the grid after the other, each patch in the order (y, x,
  // channel). Only the patches of the grid are read.
  const float* values = nullptr;
  PatchGrid grid = {};  // read for NaFlex only
};

// What the head of an image file declares.
struct ImageInfo {
  std::string format;
  std::int64_t width = 0;
  std::int64_t height = 0;
  std::int64_t working_set_bytes = 0;  // bound of the memory that preprocessing it takes
};

// Where the time of preprocessing an image went. Stages that were not reached are 0.
struct PreprocessTimes {
  std::int64_t decode_ns = 0;     // bytes to RGB
  std::int64_t resize_ns = 0;
  std::int64_t normalize_ns = 0;
};

// Errors about an image carry a payload under this name: why it was refused, one of "empty", "unknown_format",
// "too_large", "damaged" (also: of a kind that its codec does not take) and "no_memory". Decode workers
// of `siglip serve` add "decoder_crashed", "too_slow", "cancelled" and "no_decoder".
inline constexpr char kImageRefusedPayload[] = "siglip.image_refused";

// Ids of a text.
struct TextIds {
  std::vector<std::int64_t> ids;  // T, padded
  std::int64_t unpadded = 0;      // how many are not padding
};

// A loaded checkpoint. Thread-safe: preprocessing and tokenizing run side by side, encoding calls queue.
// In a child that was forked after Open, encoding (and resizing on a GPU) is FailedPrecondition: open it
// there.
class Model {
 public:
  virtual ~Model() = default;

  // Opens a Hugging Face snapshot folder. Errors name the file, what was expected and what was found.
  static absl::StatusOr<std::unique_ptr<Model>> Open(const std::string& directory,
                                                     const ModelOptions& options = {});

  virtual const ModelInfo& info() const = 0;
  // Not OK once a GPU is lost or gives numbers that cannot be: encoding fails from then on, and
  // only a new process can help.
  virtual absl::Status Health() const { return absl::OkStatus(); }

  // Bytes of an image file (any format that README.md lists) -> embedding [D].
  absl::StatusOr<std::vector<float>> EmbedImage(std::string_view image_bytes);
  // UTF-8 text of any length (cut to T tokens) -> embedding [D].
  absl::StatusOr<std::vector<float>> EmbedText(std::string_view text);

  // The steps of the two, for callers that batch.
  virtual absl::StatusOr<ImageInfo> InspectImage(std::string_view image_bytes) const = 0;
  // pixels [info().pixel_values()] float32 as ImagePixels::values, of NaFlex with rows of 0 after the
  // grid's patches; written on success only. times: may be null.
  virtual absl::StatusOr<PatchGrid> Preprocess(std::string_view image_bytes, float* pixels,
                                               PreprocessTimes* times) const = 0;
  absl::StatusOr<PatchGrid> Preprocess(std::string_view image_bytes, float* pixels) const {
    return Preprocess(image_bytes, pixels, nullptr);
  }
  // The same from pixels: rgb [height,width,3], rows without gaps. InvalidArgument for sizes that
  // are not positive, or whose product is past max_pixels.
  virtual absl::StatusOr<PatchGrid> PreprocessRgb(const std::uint8_t* rgb, std::int64_t width,
                                                  std::int64_t height, float* pixels,
                                                  PreprocessTimes* times) const = 0;
  absl::StatusOr<PatchGrid> PreprocessRgb(const std::uint8_t* rgb, std::int64_t width,
                                          std::int64_t height, float* pixels) const {
    return PreprocessRgb(rgb, width, height, pixels, nullptr);
  }
  // Whether a GPU resizes pictures of this size: see ModelOptions::gpu_resize.
  virtual bool ResizesOnGpu(std::int64_t width, std::int64_t height) const {
    (void)width, (void)height;
    return false;
  }
  // embeddings[i]: [D]. InvalidArgument names the image whose grid is not one of 1..max_patches
  // patches; nothing is run then.
  virtual absl::Status EncodePixels(std::span<const ImagePixels> images,
                                    std::span<float* const> embeddings) = 0;
  // Of fixed resolution: images[i] [3,S,S].
  absl::Status EncodePixels(std::span<const float* const> images,
                            std::span<float* const> embeddings);
  // T ids, padded.
  virtual absl::StatusOr<std::vector<std::int64_t>> Tokenize(std::string_view text) const = 0;
  // 1..T ids: only to measure what leaving the padding away costs.
  virtual absl::StatusOr<std::vector<std::int64_t>> TokenizeUnpadded(std::string_view text) const = 0;
  // Both at once; Cancelled once `give_up` says so, which is asked every few milliseconds of a long
  // text, and may be empty.
  virtual absl::StatusOr<TextIds> TokenizeUntil(std::string_view text,
                                                const std::function<bool()>& give_up) const;
  // ids[i] [num_tokens] -> embeddings[i] [D]. InvalidArgument if an id is outside the vocabulary.
  virtual absl::Status EncodeTokens(std::span<const std::int64_t* const> ids, std::int64_t num_tokens,
                                    std::span<float* const> embeddings) = 0;
};

}  // namespace siglip
