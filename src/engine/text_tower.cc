#include "engine/text_tower.h"

#include <algorithm>

namespace siglip {

TextTower::TextTower(WeightLoader& weights, GemmFormat format)
    : config_(weights.checkpoint().config().text),
      token_embedding_(weights.Tensor("text_model.embeddings.token_embedding.weight")),
      positions_(weights.Tensor("text_model.embeddings.position_embedding.weight")),
      encoder_(weights, config_, "text_model", EncoderOutput::kLastToken, format),
      final_norm_(weights.LoadNorm("text_model.final_layer_norm")),
      head_(weights, "text_model.head", format) {}

WorkspaceSizes TextTower::Sizes(std::int64_t batch) const {
  WorkspaceSizes sizes =
      encoder_.Sizes(batch * config_.max_position_embeddings, config_.max_position_embeddings);
  sizes.head = static_cast<std::size_t>(batch * config_.projection_size);
  return sizes;
}

void TextTower::EmbedTokens(Workspace& workspace, std::span<const std::int64_t* const> ids,
                            std::int64_t tokens) const {
  const std::int64_t width = config_.hidden_size;
  float* to = workspace.x.data();
  for (const std::int64_t* item : ids) {
    for (std::int64_t t = 0; t < tokens; ++t, to += width) {
      const float* token = token_embedding_.data() + item[t] * width;
      const float* position = positions_.data() + t * width;
      for (std::int64_t i = 0; i < width; ++i) to[i] = token[i] + position[i];
    }
  }
  workspace.Observe("text_model.embeddings", workspace.x.data(),
                    static_cast<std::int64_t>(ids.size()) * tokens, width);
}

void TextTower::Run(Workspace& workspace, std::span<const std::int64_t* const> ids,
                    std::int64_t tokens, std::span<float* const> embeddings,
                    WeightLoader* fp32) const {
  const std::int64_t batch = static_cast<std::int64_t>(ids.size());
  const std::int64_t width = config_.hidden_size;
  const std::int64_t projected = config_.projection_size;
  EmbedTokens(workspace, ids, tokens);
  encoder_.Run(workspace, {.count = batch, .tokens = tokens}, fp32);
  float* normed = workspace.normed.data();
  RunNorm(workspace, final_norm_, config_.layer_norm_eps, workspace.x.data(), batch, width, normed);
  workspace.Observe("text_model.final_layer_norm", normed, batch, width);
  head_.Run(workspace,
            {.rows = batch,
             .a = normed,
             .a_stride = width,
             .y = workspace.head.data(),
             .y_stride = projected},
            fp32);
  workspace.Observe("text_model.pooled", workspace.head.data(), batch, projected);
  for (std::int64_t i = 0; i < batch; ++i) {
    std::copy_n(workspace.head.data() + i * projected, projected, embeddings[i]);
  }
}

std::size_t TextTower::bytes() const {
  return encoder_.bytes() + final_norm_.bytes() + head_.bytes() +
         sizeof(float) * (token_embedding_.size() + positions_.size());
}

}  // namespace siglip
