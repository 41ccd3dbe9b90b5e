#pragma once

// The transformer blocks of either tower (pre-norm, no mask, GELU-tanh).

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/config.h"
#include "engine/weights.h"
#include "engine/workspace.h"

namespace siglip {

// y = epilogue(a * linear^T + bias). `gelu` and what is of the residual as in GemmCall.
struct LinearCall {
  std::int64_t rows = 0;
  const float* a = nullptr;
  std::int64_t a_stride = 0;
  float* y = nullptr;
  std::int64_t y_stride = 0;
  bool gelu = false;
  const float* residual = nullptr;
  std::int64_t residual_stride = 0;
  std::int64_t residual_period = 0;
};
void RunLinear(Workspace& workspace, const Linear& linear, const LinearCall& call);
// Rows of `width`, without gaps.
void RunNorm(Workspace& workspace, const Norm& norm, float eps, const float* x, std::int64_t rows,
             std::int64_t width, float* y);

// Items of a pass: their tokens are rows one after the other.
struct PassItems {
  std::int64_t count = 0;
  std::int64_t tokens = 0;  // of each; with row_begins, of the longest
  // [count + 1]: item i is rows [row_begins[i], row_begins[i + 1]). Null: equal lengths.
  const std::int64_t* row_begins = nullptr;

  std::int64_t rows() const { return row_begins == nullptr ? count * tokens : row_begins[count]; }
};

// Which tokens leave the last layer. kLastToken: of items of equal length.
enum class EncoderOutput { kEveryToken, kLastToken };

// A linear layer before or after the blocks. Beside blocks of any format but float32 it is int16,
// whose loss does not show and which every instruction set has.
class OuterLinear {
 public:
  OuterLinear() = default;
  OuterLinear(WeightLoader& weights, std::string name, GemmFormat blocks);

  // fp32: see Encoder::Run.
  void Run(Workspace& workspace, const LinearCall& call, WeightLoader* fp32) const;
  std::int64_t inputs() const { return linear_.w.k(); }
  std::size_t bytes() const { return linear_.bytes(); }

 private:
  std::string name_;
  Linear linear_;
};

// Immutable after construction.
class Encoder {
 public:
  // tower_name: "vision_model" or "text_model".
  Encoder(WeightLoader& weights, const TowerConfig& config, const std::string& tower_name,
          EncoderOutput output, GemmFormat format);

  // What `rows` tokens, of items of at most `tokens`, need (nothing for the head).
  WorkspaceSizes Sizes(std::int64_t rows, std::int64_t tokens) const;
  // workspace.x [rows, width] -> workspace.x, of the same shape or, if only the last token leaves,
  // [items, width]: then the last layer computes only what that token needs.
  // fp32: if set, the pass computes in float32, for a measure of what another format costs: each
  // block is loaded from it, a checkpoint's loader, when it is needed, and dropped after it.
  void Run(Workspace& workspace, const PassItems& items, WeightLoader* fp32 = nullptr) const;

  std::size_t bytes() const;

 private:
  struct Block {
    bool last_token_only = false;
    Norm norm1, norm2;
    Linear qkv;               // unless last_token_only
    Linear query, key_value;  // if so: of one token, of all
    Linear out, fc1, fc2;
  };

  Block LoadBlock(WeightLoader& weights, std::int64_t layer, GemmFormat format) const;
  void Project(Workspace& workspace, const Block& block, std::int64_t rows,
               std::int64_t tokens) const;
  void RunBlock(Workspace& workspace, const Block& block, const PassItems& items) const;

  TowerConfig config_;
  std::string tower_name_;
  EncoderOutput output_;
  std::vector<Block> blocks_;
};

}  // namespace siglip
