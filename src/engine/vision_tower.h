#pragma once

// Pixels -> embeddings: patches, positions, encoder, layer norm, attention pooling. Of a NaFlex
// checkpoint each picture is a grid of patches of its own shape: the linear layers run over the
// concatenated tokens of a batch, attention and pooling over each picture's own (docs/adr/0010).

#include <cstdint>
#include <span>

#include "checkpoint/config.h"
#include "engine/encoder.h"
#include "engine/patch_image.h"
#include "engine/weights.h"
#include "engine/workspace.h"

namespace siglip {

// Immutable after construction.
class VisionTower {
 public:
  // format: of the linear layers of the transformer blocks; of others see OuterLinear.
  VisionTower(WeightLoader& weights, GemmFormat format);

  bool naflex() const { return config_.naflex(); }

  // Of a checkpoint of fixed resolution.
  std::int64_t tokens() const { return config_.num_patches(); }
  WorkspaceSizes Sizes(std::int64_t batch) const {
    return Sizes(batch, batch * tokens(), tokens());
  }
  // images[i]: [channels,S,S]; embeddings[i]: [D]. REQUIRES: the workspace has
  // Sizes(images.size()).
  void Run(Workspace& workspace, std::span<const float* const> images,
           std::span<float* const> embeddings) const {
    RunCorner(workspace, images, config_.patches_per_side(), embeddings);
  }
  // The same for the upper left corner of the images, `per_side` by `per_side` patches, whose
  // positions are spread over those of a whole image. fp32: see Encoder::Run. REQUIRES: 1 <=
  // per_side <= those of a whole image.
  void RunCorner(Workspace& workspace, std::span<const float* const> images, std::int64_t per_side,
                 std::span<float* const> embeddings, WeightLoader* fp32 = nullptr) const;

  // Of a NaFlex checkpoint: what `batch` pictures of `rows` tokens together, and at most `tokens`
  // each, need.
  WorkspaceSizes Sizes(std::int64_t batch, std::int64_t rows, std::int64_t tokens) const;
  // REQUIRES: the workspace has the sizes for these images.
  void RunPatches(Workspace& workspace, std::span<const PatchImage> images,
                  std::span<float* const> embeddings, WeightLoader* fp32 = nullptr) const;

  std::size_t bytes() const;

 private:
  // Places in workspace.head.
  struct HeadBuffers {
    float* scores;  // [rows, heads]
    float* sums;    // [batch, heads, width]
    float* pooled;  // [batch, width]
    float* y;       // [batch, width]
    float* normed;  // [batch, width]
    float* middle;  // [batch, MLP width]
  };
  std::int64_t HeadFloats(std::int64_t batch, std::int64_t rows) const;
  HeadBuffers DivideHead(float* memory, std::int64_t batch, std::int64_t rows) const;

  void LoadPoolingHead(WeightLoader& weights, GemmFormat format);
  void EmbedPatches(Workspace& workspace, std::span<const float* const> images,
                    std::int64_t per_side, WeightLoader* fp32) const;
  void EmbedPatches(Workspace& workspace, std::span<const PatchImage> images, std::int64_t rows,
                    WeightLoader* fp32) const;
  // Patches in workspace.wide -> workspace.x. call: its rows and what is of the residual.
  void EmbedGathered(Workspace& workspace, LinearCall call, WeightLoader* fp32) const;
  // workspace.x [rows, width], embedded -> embeddings.
  void Encode(Workspace& workspace, const PassItems& items, std::span<float* const> embeddings,
              WeightLoader* fp32) const;
  // workspace.x [rows, width] -> [items, width] at the returned place.
  const float* Pool(Workspace& workspace, const PassItems& items, WeightLoader* fp32) const;

  VisionConfig config_;
  OuterLinear patch_embedding_;
  WeightArray positions_;  // [tokens, width]; NaFlex: [table_side, table_side, width]
  Encoder encoder_;
  Norm post_norm_;
  // The pooling head. Its scores are x . probe_[head] (see kernels/pooling.h).
  Linear probe_;              // [heads, width], no bias
  WeightArray value_weight_;  // [width, width]
  WeightArray value_bias_;
  OuterLinear out_, fc1_, fc2_;
  Norm head_norm_;
};

}  // namespace siglip
