#include "engine/encoder.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/block_names.h"
#include "kernels/attention.h"
#include "kernels/layer_norm.h"

namespace siglip {

void RunLinear(Workspace& workspace, const Linear& linear, const LinearCall& call) {
  GemmCall gemm;
  gemm.m = call.rows;
  gemm.a = call.a;
  gemm.a_stride = call.a_stride;
  gemm.w = &linear.w;
  gemm.c = call.y;
  gemm.c_stride = call.y_stride;
  gemm.bias = linear.bias.data();
  gemm.gelu = call.gelu;
  gemm.residual = call.residual;
  gemm.residual_stride = call.residual_stride;
  gemm.residual_period = call.residual_period;
  Gemm(workspace.team, gemm, workspace.packed.data());
  workspace.Change(call.y, call.rows, linear.w.n(), call.y_stride);
}

OuterLinear::OuterLinear(WeightLoader& weights, std::string name, GemmFormat blocks)
    : name_(std::move(name)),
      linear_(weights.LoadLinear(
          name_, blocks == GemmFormat::kFp32 ? GemmFormat::kFp32 : GemmFormat::kInt16)) {}

void OuterLinear::Run(Workspace& workspace, const LinearCall& call, WeightLoader* fp32) const {
  if (fp32 == nullptr) {
    RunLinear(workspace, linear_, call);
  } else {
    RunLinear(workspace, fp32->LoadLinear(name_), call);
  }
}

void RunNorm(Workspace& workspace, const Norm& norm, float eps, const float* x, std::int64_t rows,
             std::int64_t width, float* y) {
  LayerNormCall call;
  call.rows = rows;
  call.width = width;
  call.x = x;
  call.x_stride = width;
  call.weight = norm.weight.data();
  call.bias = norm.bias.data();
  call.eps = eps;
  call.y = y;
  call.y_stride = width;
  LayerNorm(workspace.team, call);
  workspace.Change(y, rows, width, width);
}

Encoder::Encoder(WeightLoader& weights, const TowerConfig& config, const std::string& tower_name,
                 EncoderOutput output, GemmFormat format)
    : config_(config), tower_name_(tower_name), output_(output) {
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    blocks_.push_back(LoadBlock(weights, i, format));
  }
}

Encoder::Block Encoder::LoadBlock(WeightLoader& weights, std::int64_t layer,
                                  GemmFormat format) const {
  const BlockNames names(tower_name_, layer);
  Block block;
  block.last_token_only =
      output_ == EncoderOutput::kLastToken && layer + 1 == config_.num_hidden_layers;
  block.norm1 = weights.LoadNorm(names.norm1);
  block.norm2 = weights.LoadNorm(names.norm2);
  if (block.last_token_only) {
    block.query = weights.LoadLinear(names.query, format);
    block.key_value = weights.LoadStackedLinears({names.key, names.value}, format);
  } else {
    block.qkv = weights.LoadStackedLinears({names.query, names.key, names.value}, format);
  }
  block.out = weights.LoadLinear(names.out, format);
  block.fc1 = weights.LoadLinear(names.fc1, format);
  block.fc2 = weights.LoadLinear(names.fc2, format);
  return block;
}

WorkspaceSizes Encoder::Sizes(std::int64_t rows, std::int64_t tokens) const {
  const std::int64_t width = config_.hidden_size;
  WorkspaceSizes sizes;
  sizes.hidden = static_cast<std::size_t>(rows * width);
  sizes.wide = static_cast<std::size_t>(rows * std::max(3 * width, config_.intermediate_size));
  sizes.packed = GemmScratchFloats(rows, std::max(width, config_.intermediate_size));
  sizes.scratch = AttentionScratchFloats(tokens, config_.head_dim());
  return sizes;
}

void Encoder::Run(Workspace& workspace, const PassItems& items, WeightLoader* fp32) const {
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    if (fp32 == nullptr) {
      RunBlock(workspace, blocks_[i], items);
    } else {
      RunBlock(workspace, LoadBlock(*fp32, static_cast<std::int64_t>(i), GemmFormat::kFp32), items);
    }
    if (workspace.observer) {
      const std::int64_t rows = blocks_[i].last_token_only ? items.count : items.rows();
      workspace.Observe(absl::StrCat(tower_name_, ".encoder.layers.", i), workspace.x.data(), rows,
                        config_.hidden_size);
    }
  }
}

// workspace.normed -> q, k, v side by side in workspace.wide.
void Encoder::Project(Workspace& workspace, const Block& block, std::int64_t rows,
                      std::int64_t tokens) const {
  const std::int64_t width = config_.hidden_size;
  const float* normed = workspace.normed.data();
  float* qkv = workspace.wide.data();
  if (!block.last_token_only) {
    RunLinear(workspace, block.qkv,
              {.rows = rows, .a = normed, .a_stride = width, .y = qkv, .y_stride = 3 * width});
    return;
  }
  RunLinear(workspace, block.query,
            {.rows = rows / tokens,
             .a = normed + (tokens - 1) * width,
             .a_stride = tokens * width,
             .y = qkv + (tokens - 1) * 3 * width,
             .y_stride = tokens * 3 * width});
  RunLinear(
      workspace, block.key_value,
      {.rows = rows, .a = normed, .a_stride = width, .y = qkv + width, .y_stride = 3 * width});
}

void Encoder::RunBlock(Workspace& workspace, const Block& block, const PassItems& items) const {
  const std::int64_t width = config_.hidden_size;
  const std::int64_t rows = items.rows();
  const std::int64_t tokens = items.tokens;
  // Rows that are answered: all of them, or every tokens-th.
  const std::int64_t step = block.last_token_only ? tokens : 1;
  const std::int64_t first = step - 1;
  const std::int64_t answers = rows / step;
  float* x = workspace.x.data();
  float* y = workspace.y.data();
  float* normed = workspace.normed.data();
  const float* qkv = workspace.wide.data();

  RunNorm(workspace, block.norm1, config_.layer_norm_eps, x, rows, width, normed);
  Project(workspace, block, rows, tokens);

  AttentionCall attention;
  attention.batch = items.count;
  attention.tokens = tokens;
  attention.row_begins = items.row_begins;
  attention.heads = config_.num_attention_heads;
  attention.head_dim = config_.head_dim();
  attention.q = qkv;
  attention.k = qkv + width;
  attention.v = qkv + 2 * width;
  attention.row_stride = 3 * width;
  attention.query_begin = first;
  attention.query_count = tokens / step;
  attention.out = normed;
  attention.out_stride = width;
  attention.format = block.out.w.format();
  Attention(workspace.team, attention, workspace.scratch.data());
  workspace.Change(normed, answers, width, width);

  RunLinear(workspace, block.out,
            {.rows = answers,
             .a = normed,
             .a_stride = width,
             .y = y,
             .y_stride = width,
             .residual = x + first * width,
             .residual_stride = step * width});
  RunNorm(workspace, block.norm2, config_.layer_norm_eps, y, answers, width, normed);
  const std::int64_t middle = config_.intermediate_size;
  RunLinear(workspace, block.fc1,
            {.rows = answers,
             .a = normed,
             .a_stride = width,
             .y = workspace.wide.data(),
             .y_stride = middle,
             .gelu = true});
  RunLinear(workspace, block.fc2,
            {.rows = answers,
             .a = workspace.wide.data(),
             .a_stride = middle,
             .y = x,
             .y_stride = width,
             .residual = y,
             .residual_stride = width});
}

std::size_t Encoder::bytes() const {
  std::size_t total = 0;
  for (const Block& block : blocks_) {
    total += block.norm1.bytes() + block.norm2.bytes() + block.qkv.bytes() + block.query.bytes() +
             block.key_value.bytes() + block.out.bytes() + block.fc1.bytes() + block.fc2.bytes();
  }
  return total;
}

}  // namespace siglip
