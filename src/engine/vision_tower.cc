#include "engine/vision_tower.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/file_map.h"
#include "checkpoint/checkpoint.h"
#include "engine/pooling_probe.h"
#include "kernels/pooling.h"

namespace siglip {

VisionTower::VisionTower(WeightLoader& weights, GemmFormat format)
    : config_(weights.checkpoint().config().vision),
      patch_embedding_(weights.LoadLinear("vision_model.embeddings.patch_embedding")),
      positions_(weights.Tensor("vision_model.embeddings.position_embedding.weight")),
      encoder_(weights, config_, "vision_model", EncoderOutput::kEveryToken, format),
      post_norm_(weights.LoadNorm("vision_model.post_layernorm")) {
  LoadPoolingHead(weights);
}

void VisionTower::LoadPoolingHead(WeightLoader& weights) {
  const std::string head = kPoolingHead;
  const std::string projections = head + "attention.in_proj_weight";
  const std::string biases = head + "attention.in_proj_bias";
  const Checkpoint& checkpoint = weights.checkpoint();
  const std::int64_t width = config_.hidden_size;
  const std::int64_t heads = config_.num_attention_heads;
  probe_.w =
      weights.Matrix(head + "probe.folded", heads, width, GemmFormat::kFp32,
                     [&](PackedMatrix& w) { w.SetRows(0, heads, FoldedProbe(checkpoint).data()); });
  value_weight_ = weights.Array(
      head + "value.weight", static_cast<std::size_t>(width * width), [&](std::span<float> values) {
        CopyFloats(checkpoint.tensor(projections), 2 * width * width, values);
        DropPages(checkpoint.tensor(projections).bytes);
      });
  value_bias_ = weights.Array(
      head + "value.bias", static_cast<std::size_t>(width),
      [&](std::span<float> values) { CopyFloats(checkpoint.tensor(biases), 2 * width, values); });
  out_ = weights.LoadLinear(head + "attention.out_proj");
  fc1_ = weights.LoadLinear(head + "mlp.fc1");
  fc2_ = weights.LoadLinear(head + "mlp.fc2");
  head_norm_ = weights.LoadNorm(head + "layernorm");
}

std::int64_t VisionTower::HeadFloats(std::int64_t batch) const {
  const std::int64_t heads = config_.num_attention_heads;
  return batch * (tokens() * heads + (heads + 3) * config_.hidden_size + config_.intermediate_size);
}

VisionTower::HeadBuffers VisionTower::DivideHead(float* memory, std::int64_t batch) const {
  const std::int64_t width = config_.hidden_size;
  HeadBuffers buffers;
  buffers.scores = memory;
  buffers.sums = buffers.scores + batch * tokens() * config_.num_attention_heads;
  buffers.pooled = buffers.sums + batch * config_.num_attention_heads * width;
  buffers.y = buffers.pooled + batch * width;
  buffers.normed = buffers.y + batch * width;
  buffers.middle = buffers.normed + batch * width;
  return buffers;
}

WorkspaceSizes VisionTower::Sizes(std::int64_t batch) const {
  WorkspaceSizes sizes = encoder_.Sizes(batch, tokens());
  sizes.head = static_cast<std::size_t>(HeadFloats(batch));
  sizes.packed =
      std::max(sizes.packed, GemmScratchFloats(batch * tokens(), patch_embedding_.w.k()));
  return sizes;
}

void VisionTower::EmbedPatches(Workspace& workspace, std::span<const float* const> images,
                               std::int64_t per_side) const {
  const PatchRows patches{images.data(), config_.num_channels, config_.image_size,
                          config_.patch_size, per_side};
  const std::int64_t width = config_.hidden_size;
  GemmCall call;
  call.m = static_cast<std::int64_t>(images.size()) * per_side * per_side;
  call.patches = &patches;
  call.w = &patch_embedding_.w;
  call.c = workspace.x.data();
  call.c_stride = width;
  call.bias = patch_embedding_.bias.data();
  call.residual = positions_.data();
  call.residual_stride = width;
  call.residual_period = per_side * per_side;
  Gemm(workspace.team, call, workspace.packed.data());
  workspace.Observe("vision_model.embeddings", call.c, call.m, width);
}

const float* VisionTower::Pool(Workspace& workspace, std::int64_t batch,
                               std::int64_t tokens) const {
  const std::int64_t width = config_.hidden_size;
  const std::int64_t heads = config_.num_attention_heads;
  const std::int64_t rows = batch * tokens;
  const HeadBuffers head = DivideHead(workspace.head.data(), batch);
  const float* x = workspace.normed.data();
  RunNorm(workspace, post_norm_, config_.layer_norm_eps, workspace.x.data(), rows, width,
          workspace.normed.data());
  workspace.Observe("vision_model.post_layernorm", x, rows, width);

  RunLinear(workspace, probe_,
            {.rows = rows, .a = x, .a_stride = width, .y = head.scores, .y_stride = heads});
  PoolTokens(workspace.team, {batch, tokens, heads, width, x, head.scores, head.sums});
  ProjectHeads(workspace.team, {batch, heads, width, head.sums, value_weight_.data(),
                                value_bias_.data(), head.pooled});
  RunLinear(workspace, out_,
            {.rows = batch, .a = head.pooled, .a_stride = width, .y = head.y, .y_stride = width});
  workspace.Observe("vision_model.head.attention", head.y, batch, width);
  RunNorm(workspace, head_norm_, config_.layer_norm_eps, head.y, batch, width, head.normed);
  RunLinear(workspace, fc1_,
            {.rows = batch,
             .a = head.normed,
             .a_stride = width,
             .y = head.middle,
             .y_stride = config_.intermediate_size,
             .gelu = true});
  RunLinear(workspace, fc2_,
            {.rows = batch,
             .a = head.middle,
             .a_stride = config_.intermediate_size,
             .y = head.pooled,
             .y_stride = width,
             .residual = head.y,
             .residual_stride = width});
  return head.pooled;
}

void VisionTower::RunCorner(Workspace& workspace, std::span<const float* const> images,
                            std::int64_t per_side, std::span<float* const> embeddings,
                            const Fp32Blocks* fp32) const {
  const std::int64_t batch = static_cast<std::int64_t>(images.size());
  const std::int64_t tokens = per_side * per_side;
  EmbedPatches(workspace, images, per_side);
  encoder_.Run(workspace, batch, tokens, fp32);
  const float* pooled = Pool(workspace, batch, tokens);
  workspace.Observe("vision_model.pooled", pooled, batch, config_.hidden_size);
  for (std::int64_t i = 0; i < batch; ++i) {
    std::copy_n(pooled + i * config_.hidden_size, config_.hidden_size, embeddings[i]);
  }
}

std::size_t VisionTower::bytes() const {
  return patch_embedding_.bytes() + encoder_.bytes() + post_norm_.bytes() + probe_.bytes() +
         out_.bytes() + fc1_.bytes() + fc2_.bytes() + head_norm_.bytes() +
         sizeof(float) * (positions_.size() + value_weight_.size() + value_bias_.size());
}

}  // namespace siglip
