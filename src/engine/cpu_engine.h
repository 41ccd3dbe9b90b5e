#pragma once

// The CPU's engine. Included by engine.cc and by tests that look between its stages.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/turn_lock.h"
#include "engine/engine.h"
#include "engine/text_tower.h"
#include "engine/vision_tower.h"
#include "engine/weight_file.h"
#include "engine/weights.h"
#include "engine/workspace.h"

namespace siglip {

// What a CPU's precision multiplies by: kFp32 for kAuto and those of GPUs.
GemmFormat FormatOf(Precision precision);

// Both towers, and what they borrow their weights from, if they do.
struct LoadedTowers {
  std::optional<WeightFile> file;
  VisionTower vision;
  TextTower text;
};
// format: of the linear layers of the transformer blocks. `file` is left out.
LoadedTowers LoadTowers(WeightLoader& weights, GemmFormat format);

// Thread-safe.
class CpuEngine final : public Engine {
 public:
  // precision_choice: as PrecisionChoice() gives it. REQUIRES: options.num_threads > 0,
  // options.max_batch_size > 0, options.precision is that of `towers`. Throws std::bad_alloc.
  CpuEngine(LoadedTowers towers, const TextConfig& text, const EngineOptions& options,
            std::string precision_choice = {});

  absl::Status EncodeImages(std::span<const float* const> images,
                            std::span<float* const> embeddings) override;
  absl::Status EncodePatches(std::span<const PatchImage> images,
                             std::span<float* const> embeddings) override;
  absl::Status EncodeTexts(std::span<const std::int64_t* const> ids, std::int64_t num_tokens,
                           std::span<float* const> embeddings) override;
  std::string Describe() const override;
  std::string PrecisionChoice() const override { return precision_choice_; }
  std::int64_t memory_bytes() const override { return memory_bytes_; }

  void SetObserver(StageObserver observer);

 private:
  WorkspaceSizes Sizes() const;
  // How many of `images` from the first on are one pass.
  std::size_t PatchImagesOfPass(std::span<const PatchImage> images) const;

  const int num_threads_;
  const Precision precision_;
  const std::string precision_choice_;
  const TextConfig text_config_;
  const LoadedTowers towers_;
  // Most tokens of an image.
  const std::int64_t max_patches_;
  // Items of one pass over the weights; of NaFlex, as many as have so many tokens, and at most
  // max_batch_size.
  const std::size_t images_per_pass_;
  const std::size_t patch_images_per_pass_;
  const std::size_t texts_per_pass_;
  // Taken for each pass, in turn: neither texts nor images keep the others waiting for more than
  // one.
  TurnLock turns_;
  Workspace workspace_ SIGLIP_GUARDED_BY(turns_);
  std::int64_t memory_bytes_ = 0;
};

}  // namespace siglip
