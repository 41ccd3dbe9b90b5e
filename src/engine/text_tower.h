#pragma once

// Token ids -> embeddings: token and position embedding, encoder, layer norm and head on the last
// position, whatever it holds.

#include <cstdint>
#include <span>

#include "checkpoint/config.h"
#include "engine/encoder.h"
#include "engine/weights.h"
#include "engine/workspace.h"

namespace siglip {

// Immutable after construction.
class TextTower {
 public:
  // format: of the linear layers of the transformer blocks.
  TextTower(WeightLoader& weights, GemmFormat format);

  // For any number of tokens up to the longest.
  WorkspaceSizes Sizes(std::int64_t batch) const;
  // ids[i]: [tokens]; embeddings[i]: [D]. REQUIRES: every id is in the vocabulary, 1 <= tokens <=
  // max_position_embeddings, the workspace has Sizes(ids.size()). fp32: see Encoder::Run.
  void Run(Workspace& workspace, std::span<const std::int64_t* const> ids, std::int64_t tokens,
           std::span<float* const> embeddings, WeightLoader* fp32 = nullptr) const;
  std::size_t bytes() const;

 private:
  void EmbedTokens(Workspace& workspace, std::span<const std::int64_t* const> ids,
                   std::int64_t tokens) const;

  TextConfig config_;
  WeightArray token_embedding_;  // [vocabulary, width]
  WeightArray positions_;        // [max_position_embeddings, width]
  Encoder encoder_;
  Norm final_norm_;
  OuterLinear head_;
};

}  // namespace siglip
