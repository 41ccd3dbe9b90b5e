#include "engine/vision_tower.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/file_map.h"
#include "checkpoint/checkpoint.h"
#include "engine/pooling_probe.h"
#include "engine/position_table.h"
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

std::int64_t VisionTower::HeadFloats(std::int64_t batch, std::int64_t rows) const {
  const std::int64_t heads = config_.num_attention_heads;
  return rows * heads + batch * ((heads + 3) * config_.hidden_size + config_.intermediate_size);
}

VisionTower::HeadBuffers VisionTower::DivideHead(float* memory, std::int64_t batch,
                                                 std::int64_t rows) const {
  const std::int64_t width = config_.hidden_size;
  HeadBuffers buffers;
  buffers.scores = memory;
  buffers.sums = buffers.scores + rows * config_.num_attention_heads;
  buffers.pooled = buffers.sums + batch * config_.num_attention_heads * width;
  buffers.y = buffers.pooled + batch * width;
  buffers.normed = buffers.y + batch * width;
  buffers.middle = buffers.normed + batch * width;
  return buffers;
}

WorkspaceSizes VisionTower::Sizes(std::int64_t batch, std::int64_t rows,
                                  std::int64_t tokens) const {
  const std::int64_t patch = patch_embedding_.w.k();
  WorkspaceSizes sizes = encoder_.Sizes(rows, tokens);
  sizes.head = static_cast<std::size_t>(HeadFloats(batch, rows));
  sizes.packed = std::max(sizes.packed, GemmScratchFloats(rows, patch));
  // Patches of NaFlex are gathered there.
  if (naflex()) sizes.wide = std::max(sizes.wide, static_cast<std::size_t>(rows * patch));
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
  call.residual_period = per_side * per_side;
  call.residual_stride = width * (tokens() / call.residual_period);
  Gemm(workspace.team, call, workspace.packed.data());
  workspace.Observe("vision_model.embeddings", call.c, call.m, width);
}

void VisionTower::EmbedPatches(Workspace& workspace, std::span<const PatchImage> images,
                               std::int64_t rows) const {
  const std::int64_t patch = patch_embedding_.w.k();
  const std::int64_t width = config_.hidden_size;
  float* patches = workspace.wide.data();
  float* positions = workspace.y.data();
  for (const PatchImage& image : images) {
    patches = std::copy_n(image.patches, image.tokens() * patch, patches);
    ResizePositions(workspace.team,
                    {.table = positions_.data(),
                     .side = config_.table_side,
                     .width = width,
                     .rows = image.rows,
                     .columns = image.columns},
                    positions);
    positions += image.tokens() * width;
  }
  RunLinear(workspace, patch_embedding_,
            {.rows = rows,
             .a = workspace.wide.data(),
             .a_stride = patch,
             .y = workspace.x.data(),
             .y_stride = width,
             .residual = workspace.y.data(),
             .residual_stride = width});
  workspace.Observe("vision_model.embeddings", workspace.x.data(), rows, width);
}

const float* VisionTower::Pool(Workspace& workspace, const PassItems& items) const {
  const std::int64_t width = config_.hidden_size;
  const std::int64_t heads = config_.num_attention_heads;
  const std::int64_t batch = items.count;
  const std::int64_t rows = items.rows();
  const HeadBuffers head = DivideHead(workspace.head.data(), batch, rows);
  const float* x = workspace.normed.data();
  RunNorm(workspace, post_norm_, config_.layer_norm_eps, workspace.x.data(), rows, width,
          workspace.normed.data());
  workspace.Observe("vision_model.post_layernorm", x, rows, width);

  RunLinear(workspace, probe_,
            {.rows = rows, .a = x, .a_stride = width, .y = head.scores, .y_stride = heads});
  PoolTokens(workspace.team,
             {batch, items.tokens, heads, width, x, head.scores, head.sums, items.row_begins});
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
  EmbedPatches(workspace, images, per_side);
  Encode(workspace,
         {.count = static_cast<std::int64_t>(images.size()), .tokens = per_side * per_side},
         embeddings, fp32);
}

void VisionTower::RunPatches(Workspace& workspace, std::span<const PatchImage> images,
                             std::span<float* const> embeddings, const Fp32Blocks* fp32) const {
  std::vector<std::int64_t> begins = {0};
  std::int64_t longest = 0;
  for (const PatchImage& image : images) {
    begins.push_back(begins.back() + image.tokens());
    longest = std::max(longest, image.tokens());
  }
  EmbedPatches(workspace, images, begins.back());
  Encode(workspace,
         {.count = static_cast<std::int64_t>(images.size()),
          .tokens = longest,
          .row_begins = begins.data()},
         embeddings, fp32);
}

void VisionTower::Encode(Workspace& workspace, const PassItems& items,
                         std::span<float* const> embeddings, const Fp32Blocks* fp32) const {
  encoder_.Run(workspace, items, fp32);
  const float* pooled = Pool(workspace, items);
  workspace.Observe("vision_model.pooled", pooled, items.count, config_.hidden_size);
  for (std::int64_t i = 0; i < items.count; ++i) {
    std::copy_n(pooled + i * config_.hidden_size, config_.hidden_size, embeddings[i]);
  }
}

std::size_t VisionTower::bytes() const {
  return patch_embedding_.bytes() + encoder_.bytes() + post_norm_.bytes() + probe_.bytes() +
         out_.bytes() + fc1_.bytes() + fc2_.bytes() + head_norm_.bytes() +
         sizeof(float) * (positions_.size() + value_weight_.size() + value_bias_.size());
}

}  // namespace siglip
