#pragma once

// A pass through a tower as data: what the GPU runs, without a GPU. A TowerProgram knows a tower's
// weights as they lie on the device and writes a Plan, the list of operations for a number of
// items. cuda_engine executes plans; the tests execute the same plans on the CPU in float64.

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "checkpoint/checkpoint.h"

namespace siglip::cuda {

// How values are stored. Which type kCompute and kStream are is the engine's choice.
enum class Element {
  kCompute,  // bf16 or fp16: factors of products
  kStream,   // the residual stream
  kFloat,    // float32
  kByte,     // e4m3, with a float32 scale for each row
};

enum class Buffer {
  kPatches,     // kCompute [rows, padded patch]
  kStream,      // kStream  [rows, width]
  kNormed,      // kCompute [rows, width]: layer norm's and attention's output
  kWide,        // kCompute [rows, max(3 width, MLP width)]
  kQuantised,   // kByte    [rows, max(width, MLP width)]
  kRowScales,   // kFloat   [rows]: those of kQuantised
  kScores,      // kFloat   [rows, heads]
  kSums,        // kCompute [items, heads, width]
  kPooled,      // kCompute [items, width]
  kHead,        // kFloat   [items, D]: the embeddings, in the end
  kHeadNormed,  // kCompute [items, width]
  kHeadMiddle,  // kCompute [items, MLP width]
};
inline constexpr std::size_t kNumBuffers = 12;
Element ElementOf(Buffer buffer);

// Rows in a buffer: row r starts at element offset + r * stride.
struct Rows {
  Buffer buffer = Buffer::kStream;
  std::int64_t offset = 0;
  std::int64_t stride = 0;
};

// An index into TowerProgram::weights(); kNone: absent.
using WeightId = int;
inline constexpr WeightId kNone = -1;

// What the input becomes; the only operation that reads the caller's data.
struct PatchesOp {  // pixels [items,C,S,S] -> kPatches, [channel][y][x] padded with zeros
  std::int64_t channels, image_size, patch, per_side, padded;
};
struct TokensOp {  // ids [items,tokens] -> kStream: the token's row + the position's
  WeightId table, positions;
  std::int64_t tokens, width;
};

// y[r] = addend[r % period].
struct FillOp {
  WeightId addend;
  Rows y;
  std::int64_t rows, width, period;
};
// y = layer norm of x. If y is kQuantised: as e4m3, and kRowScales is written.
struct NormOp {
  WeightId weight, bias;
  Rows x, y;
  std::int64_t rows, width;
  float eps;
};
// kQuantised, kRowScales <- rows of kCompute.
struct QuantiseOp {
  Rows x;
  std::int64_t rows, width;
};
// y = gelu?(x * weight^T + bias), or y += x * weight^T + bias. `count` such products whose parts
// lie the given numbers of elements apart.
struct LinearOp {
  WeightId weight, bias = kNone;
  Rows x, y;
  std::int64_t rows = 0;
  bool gelu = false;
  bool accumulate = false;
  std::int64_t n = 0, k = 0;  // of one product
  std::int64_t count = 1;
  std::int64_t x_step = 0, weight_step = 0, y_step = 0;
};
// q, k, v side by side in kWide -> y, one row per answered query.
struct AttentionOp {
  std::int64_t items, tokens, heads, head_dim;
  std::int64_t query_begin, query_count;
  Rows y;
};
// kNormed, kScores -> kSums (see kernels/pooling.h).
struct PoolOp {
  std::int64_t items, tokens, heads, width;
};

using InputOp = std::variant<PatchesOp, TokensOp>;
using Op = std::variant<FillOp, NormOp, QuantiseOp, LinearOp, AttentionOp, PoolOp>;

struct Plan {
  std::int64_t items = 0;
  std::int64_t tokens = 0;  // per item
  InputOp input;
  std::vector<Op> ops;
  std::array<std::int64_t, kNumBuffers> elements = {};  // that each buffer must hold
};

struct Weight {
  std::string name;
  Element storage = Element::kCompute;
  std::int64_t rows = 1;
  std::int64_t columns = 0;         // with padding
  std::int64_t filled_columns = 0;  // the rest is zero
  std::int64_t filled_rows = 0;
  // Writes [filled_rows, filled_columns]. Borrows the checkpoint.
  std::function<void(std::span<float>)> fill;
};

// Beyond it a batch only waits longer: 64 images of so400m fill an H200 to 99 % of its last wave of
// thread blocks, 8 to 92 %.
inline constexpr int kMaxBatchItems = 64;

struct ProgramOptions {
  bool fp8 = false;              // the MLP of the vision tower's blocks: docs/adr/0007
  std::int64_t text_tokens = 0;  // of usual texts, up to the longest; 0: those
};

// Immutable after construction.
class TowerProgram {
 public:
  // What GPUs refuse: Unimplemented names field, expected and found.
  static absl::Status Check(const SiglipConfig& config);

  // Borrows the checkpoint for Weight::fill. REQUIRES: Check().
  static TowerProgram Vision(const Checkpoint& checkpoint, const ProgramOptions& options);
  static TowerProgram Text(const Checkpoint& checkpoint, const ProgramOptions& options);

  // 1 <= tokens <= the longest; a vision tower has only one number of tokens.
  Plan MakePlan(std::int64_t items, std::int64_t tokens) const;
  // The same without operations: only the input.
  Plan MakeInput(std::int64_t items, std::int64_t tokens) const;

  const std::vector<Weight>& weights() const { return weights_; }
  std::int64_t max_tokens() const { return max_tokens_; }
  // What the engine is prepared for: a tokenizer may pad texts to less than the positions there
  // are.
  std::int64_t usual_tokens() const {
    return vision_ || options_.text_tokens == 0 ? max_tokens_ : options_.text_tokens;
  }
  // Elements of one item's input: pixels or ids.
  std::int64_t input_elements(std::int64_t tokens) const { return vision_ ? pixels_ : tokens; }
  std::int64_t embedding_size() const { return embedding_size_; }

 private:
  struct Norm {
    WeightId weight, bias;
  };
  struct Linear {
    WeightId weight, bias;
    std::int64_t n, k;
  };
  struct Block {
    bool last_token_only;
    Norm norm1, norm2;
    Linear qkv;               // unless last_token_only
    Linear query, key_value;  // if so
    Linear out, fc1, fc2;
  };
  class Writer;

  TowerProgram(const Checkpoint& checkpoint, const TowerConfig& config,
               const ProgramOptions& options)
      : checkpoint_(&checkpoint), config_(config), options_(options) {}

  WeightId Add(Weight weight);
  WeightId AddVector(const std::string& name, Element storage);
  Norm AddNorm(const std::string& name);
  // Several linear layers of one input, one under the other. `y`: what the bias is added in.
  Linear AddLinear(const std::vector<std::string>& names, Element weight, Element y,
                   std::int64_t pad_outputs = 1);
  void AddBlocks(const std::string& tower, bool last_token_only);
  void AddPoolingHead();

  const Checkpoint* checkpoint_;
  TowerConfig config_;
  ProgramOptions options_;
  bool vision_ = false;
  std::int64_t max_tokens_ = 0;
  std::int64_t pixels_ = 0;
  std::int64_t embedding_size_ = 0;
  std::int64_t padded_mlp_ = 0;
  std::vector<Weight> weights_;
  std::vector<Block> blocks_;
  Norm final_norm_ = {};
  // Vision.
  PatchesOp patches_ = {};
  Linear patch_embedding_ = {};
  WeightId addend_ = kNone;  // position embedding + bias of the patches
  Linear probe_ = {}, head_value_ = {}, head_out_ = {}, head_fc1_ = {}, head_fc2_ = {};
  Norm head_norm_ = {};
  // Text.
  WeightId table_ = kNone, positions_ = kNone;
  Linear head_ = {};
};

// Sizes are multiples of 16, zeros where the checkpoint has fewer: 16 bytes of fp8, which tensor
// cores need of a row, and no row of bf16 that starts between vectors (so400m's patches, 588 wide,
// run 3.5 times slower without).
inline constexpr std::int64_t kWidthMultiple = 16;
inline std::int64_t PadWidth(std::int64_t width) {
  return (width + kWidthMultiple - 1) / kWidthMultiple * kWidthMultiple;
}

// Of the attention kernel: a row's 16-byte vectors, and the largest instance.
inline constexpr std::int64_t kHeadDimMultiple = 8;
inline constexpr std::int64_t kMaxHeadDim = 128;
// Of the layer norm kernel: what a warp holds of a row.
inline constexpr std::int64_t kMaxNormWidth = 2048;

}  // namespace siglip::cuda
