#include "engine/vision_tower.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/file_map.h"
#include "checkpoint/checkpoint.h"
#include "engine/patch_rows.h"
#include "engine/pooling_probe.h"
#include "engine/position_table.h"
#include "kernels/pooling.h"

namespace siglip {

VisionTower::VisionTower(WeightLoader& weights, GemmFormat format)
    : config_(weights.checkpoint().config().vision),
      patch_embedding_(weights, "vision_model.embeddings.patch_embedding", format),
      positions_(weights.Tensor("vision_model.embeddings.position_embedding.weight")),
      encoder_(weights, config_, "vision_model", EncoderOutput::kEveryToken, format),
      post_norm_(weights.LoadNorm("vision_model.post_layernorm")) {
  LoadPoolingHead(weights, format);
}

void VisionTower::LoadPoolingHead(WeightLoader& weights, GemmFormat format) {
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
  out_ = OuterLinear(weights, head + "attention.out_proj", format);
  fc1_ = OuterLinear(weights, head + "mlp.fc1", format);
  fc2_ = OuterLinear(weights, head + "mlp.fc2", format);
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
  const std::int64_t patch = patch_embedding_.inputs();
  WorkspaceSizes sizes = encoder_.Sizes(rows, tokens);
  sizes.head = static_cast<std::size_t>(HeadFloats(batch, rows));
  sizes.packed = std::max(sizes.packed, GemmScratchFloats(rows, patch));
  // Patches are gathered there.
  sizes.wide = std::max(sizes.wide, static_cast<std::size_t>(rows * patch));
  return sizes;
}

void VisionTower::EmbedPatches(Workspace& workspace, std::span<const float* const> images,
                               std::int64_t per_side, WeightLoader* fp32) const {
  const std::int64_t rows_of_image = per_side * per_side;
  GatherPatches(workspace.team,
                {images.data(), static_cast<std::int64_t>(images.size()), config_.num_channels,
                 config_.image_size, config_.patch_size, per_side},
                workspace.wide.data());
  EmbedGathered(workspace,
                {.rows = static_cast<std::int64_t>(images.size()) * rows_of_image,
                 .residual = positions_.data(),
                 .residual_stride = config_.hidden_size * (tokens() / rows_of_image),
                 .residual_period = rows_of_image},
                fp32);
}

void VisionTower::EmbedPatches(Workspace& workspace, std::span<const PatchImage> images,
                               std::int64_t rows, WeightLoader* fp32) const {
  const std::int64_t patch = patch_embedding_.inputs();
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
  EmbedGathered(workspace, {.rows = rows, .residual = workspace.y.data(), .residual_stride = width},
                fp32);
}

void VisionTower::EmbedGathered(Workspace& workspace, LinearCall call, WeightLoader* fp32) const {
  const std::int64_t width = config_.hidden_size;
  call.a = workspace.wide.data();
  call.a_stride = patch_embedding_.inputs();
  call.y = workspace.x.data();
  call.y_stride = width;
  patch_embedding_.Run(workspace, call, fp32);
  workspace.Observe("vision_model.embeddings", workspace.x.data(), call.rows, width);
}

const float* VisionTower::Pool(Workspace& workspace, const PassItems& items,
                               WeightLoader* fp32) const {
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
  out_.Run(workspace,
           {.rows = batch, .a = head.pooled, .a_stride = width, .y = head.y, .y_stride = width},
           fp32);
  workspace.Observe("vision_model.head.attention", head.y, batch, width);
  RunNorm(workspace, head_norm_, config_.layer_norm_eps, head.y, batch, width, head.normed);
  fc1_.Run(workspace,
           {.rows = batch,
            .a = head.normed,
            .a_stride = width,
            .y = head.middle,
            .y_stride = config_.intermediate_size,
            .gelu = true},
           fp32);
  fc2_.Run(workspace,
           {.rows = batch,
            .a = head.middle,
            .a_stride = config_.intermediate_size,
            .y = head.pooled,
            .y_stride = width,
            .residual = head.y,
            .residual_stride = width},
           fp32);
  return head.pooled;
}

void VisionTower::RunCorner(Workspace& workspace, std::span<const float* const> images,
                            std::int64_t per_side, std::span<float* const> embeddings,
                            WeightLoader* fp32) const {
  EmbedPatches(workspace, images, per_side, fp32);
  Encode(workspace,
         {.count = static_cast<std::int64_t>(images.size()), .tokens = per_side * per_side},
         embeddings, fp32);
}

void VisionTower::RunPatches(Workspace& workspace, std::span<const PatchImage> images,
                             std::span<float* const> embeddings, WeightLoader* fp32) const {
  std::vector<std::int64_t> begins = {0};
  std::int64_t longest = 0;
  for (const PatchImage& image : images) {
    begins.push_back(begins.back() + image.tokens());
    longest = std::max(longest, image.tokens());
  }
  EmbedPatches(workspace, images, begins.back(), fp32);
  Encode(workspace,
         {.count = static_cast<std::int64_t>(images.size()),
          .tokens = longest,
          .row_begins = begins.data()},
         embeddings, fp32);
}

void VisionTower::Encode(Workspace& workspace, const PassItems& items,
                         std::span<float* const> embeddings, WeightLoader* fp32) const {
  encoder_.Run(workspace, items, fp32);
  const float* pooled = Pool(workspace, items, fp32);
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
