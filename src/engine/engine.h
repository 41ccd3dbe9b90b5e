#pragma once

// Checkpoint + kernels -> embeddings. One engine holds both towers of one checkpoint on one device.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/rgb_resizer.h"
#include "checkpoint/checkpoint.h"
#include "engine/patch_image.h"

namespace siglip {

// What the linear layers of the transformer blocks compute in. Everything else (layer norms,
// softmax, attention but for its scores, embeddings, heads) is float32.
enum class Precision {
  kFp32,
  kInt16,  // GemmFormat::kInt16
  kInt8,   // GemmFormat::kInt8, attention's scores as in kInt16. Never kAuto's choice
  // Of CPUs: the fastest of them whose embeddings stay near float32's with the weights at hand,
  // decided at load by calibration inputs, the same for every start (see precision_check.h).
  kAuto,
  // Of GPUs. There 16 bits are what everything is stored in; sums, statistics and softmax are
  // float32. Of CPUs with AMX kBf16 too: GemmFormat::kBf16, attention's products as in kInt16.
  // Never kAuto's choice there.
  kBf16,
  kFp16,
  kFp8,  // kBf16, with e4m3 factors in the blocks' linear layers, scaled by row and column
};
std::string PrecisionName(Precision precision);  // "fp32", "int16", "int8", "auto", "bf16", ...
std::optional<Precision> ParsePrecision(std::string_view name);

struct EngineOptions {
  int num_threads = 0;      // CPU workers; 0 = one per core
  int max_batch_size = 32;  // items per pass; scratch memory is sized for it once, at load
  int max_patches = 256;    // of an image, for a NaFlex checkpoint; sizes the scratch memory too
  Precision precision = Precision::kFp32;
  std::string device = "cpu";  // or "cuda:0,1": batches go to whichever GPU is free
  // Instruction set, as KernelTargets() names them; "auto" = the best. One per process: the first
  // engine's choice binds the later ones.
  std::string isa = "auto";
  // Ids of a short text as its tokenizer pads it. What kAuto and GPUs are checked with should have
  // the padding and its places that texts have, and GPUs are prepared for texts of this length;
  // empty: made up, of max_position_embeddings.
  std::vector<std::int64_t> example_text = {};
  // Folder that keeps packed weights between starts (see weight_cache.h); empty: none. One that
  // cannot be used costs a warning and the time to pack, no error.
  std::string cache_dir = {};
  // Engine::resizer, to the checkpoint's image size; InvalidArgument on a CPU.
  bool gpu_resize = false;
};

// Ids of most texts: those of the example, if it is a text of this model; else the most.
inline std::int64_t UsualTokens(const TextConfig& config,
                                std::span<const std::int64_t> example_text) {
  const auto tokens = static_cast<std::int64_t>(example_text.size());
  const bool possible = tokens >= 1 && tokens <= config.max_position_embeddings;
  return possible ? tokens : config.max_position_embeddings;
}

// Thread-safe: calls from several threads queue, since one call already uses every worker.
class Engine {
 public:
  virtual ~Engine() = default;

  // Packs the weights for the CPU's kernels, or maps them from options.cache_dir, and allocates all
  // scratch memory; or copies them to GPUs. kAuto also embeds calibration inputs, unless
  // options.cache_dir remembers what came of it. The checkpoint is not needed afterwards.
  static absl::StatusOr<std::unique_ptr<Engine>> Open(const Checkpoint& checkpoint,
                                                      const EngineOptions& options);

  // images[i]: [3,S,S] float32; embeddings[i]: [D] float32, not normalised. Any number of items;
  // more than max_batch_size are run in several passes. Item i never depends on the others, on a
  // CPU bit for bit; on a GPU another batch size may be another algorithm, which rounds otherwise.
  // REQUIRES: sizes are equal. Values are not checked: NaN in, NaN out.
  virtual absl::Status EncodeImages(std::span<const float* const> images,
                                    std::span<float* const> embeddings) = 0;

  // The same for a NaFlex checkpoint, of images of any shapes together. InvalidArgument names the
  // item whose rows or columns are not positive, or make more than max_patches (nothing is run).
  // Each of the two functions is FailedPrecondition for the other's checkpoints.
  virtual absl::Status EncodePatches(std::span<const PatchImage> images,
                                     std::span<float* const> embeddings) {
    (void)images, (void)embeddings;
    return absl::FailedPreconditionError(
        "images: expected [3,S,S] of a checkpoint of fixed resolution, got patches");
  }

  // ids[i]: [num_tokens] token ids, padding included; 1 <= num_tokens <= max_position_embeddings.
  // InvalidArgument names item, position and id if one is outside the vocabulary (nothing is run).
  virtual absl::Status EncodeTexts(std::span<const std::int64_t* const> ids,
                                   std::int64_t num_tokens, std::span<float* const> embeddings) = 0;

  // Not OK once a GPU is lost or has given numbers that cannot be: every later call fails, only a
  // new process can help.
  virtual absl::Status Health() const { return absl::OkStatus(); }
  // "cpu, avx512, fp32, 2 threads": the precision that is used.
  virtual std::string Describe() const = 0;
  // "int16 (1-cos ...)": what kAuto chose and why; empty if it was not asked.
  virtual std::string PrecisionChoice() const { return {}; }
  // Resizes pictures on the engine's GPUs; null unless options.gpu_resize. As long as the engine.
  virtual RgbResizer* resizer() { return nullptr; }
  // Bytes of packed weights and scratch memory.
  virtual std::int64_t memory_bytes() const = 0;
};

}  // namespace siglip
