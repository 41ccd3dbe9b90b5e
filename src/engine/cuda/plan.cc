#include "engine/cuda/plan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/linear_shape.h"
#include "engine/block_names.h"
#include "engine/pooling_probe.h"

namespace siglip::cuda {
namespace {

absl::Status CheckTower(const char* tower, const TowerConfig& config) {
  const auto refuse = [&](const char* field, const std::string& expected, std::int64_t got) {
    return absl::UnimplementedError(absl::StrCat("device cuda: config.json: ", tower, ".", field,
                                                 ": expected ", expected, ", got ", got));
  };
  const std::int64_t width = config.hidden_size;
  if (width % kWidthMultiple != 0 || width > kMaxNormWidth) {
    return refuse("hidden_size",
                  absl::StrCat("a multiple of ", kWidthMultiple, " up to ", kMaxNormWidth), width);
  }
  if (config.head_dim() % kHeadDimMultiple != 0 || config.head_dim() > kMaxHeadDim) {
    return refuse("hidden_size / num_attention_heads",
                  absl::StrCat("a multiple of ", kHeadDimMultiple, " up to ", kMaxHeadDim),
                  config.head_dim());
  }
  return absl::OkStatus();
}

// What a product may do beside.
struct Extra {
  bool gelu = false;
  bool accumulate = false;
};

}  // namespace

Element ElementOf(Buffer buffer) {
  switch (buffer) {
    case Buffer::kStream:
      return Element::kStream;
    case Buffer::kQuantised:
      return Element::kByte;
    case Buffer::kRowScales:
    case Buffer::kScores:
    case Buffer::kHead:
      return Element::kFloat;
    case Buffer::kPatches:
    case Buffer::kNormed:
    case Buffer::kWide:
    case Buffer::kSums:
    case Buffer::kPooled:
    case Buffer::kHeadNormed:
    case Buffer::kHeadMiddle:
      break;
  }
  return Element::kCompute;
}

absl::Status TowerProgram::Check(const SiglipConfig& config) {
  absl::Status status = CheckTower("vision_config", config.vision);
  status.Update(CheckTower("text_config", config.text));
  return status;
}

WeightId TowerProgram::Add(Weight weight) {
  if (weight.filled_columns == 0) weight.filled_columns = weight.columns;
  if (weight.filled_rows == 0) weight.filled_rows = weight.rows;
  weights_.push_back(std::move(weight));
  return static_cast<WeightId>(weights_.size()) - 1;
}

WeightId TowerProgram::AddVector(const std::string& name, Element storage) {
  const StoredTensor& tensor = checkpoint_->tensor(name);
  return Add({.name = name,
              .storage = storage,
              .columns = Outputs(tensor) * Inputs(tensor),
              .fill = [&tensor](std::span<float> to) { CopyFloats(tensor, 0, to); }});
}

TowerProgram::Norm TowerProgram::AddNorm(const std::string& name) {
  return {AddVector(name + ".weight", Element::kFloat), AddVector(name + ".bias", Element::kFloat)};
}

TowerProgram::Linear TowerProgram::AddLinear(const std::vector<std::string>& names, Element weight,
                                             Element y, std::int64_t pad_outputs) {
  std::int64_t outputs = 0;
  std::int64_t inputs = 0;
  for (const std::string& name : names) {
    outputs += Outputs(checkpoint_->tensor(name + ".weight"));
    inputs = Inputs(checkpoint_->tensor(name + ".weight"));
  }
  const std::int64_t n = (outputs + pad_outputs - 1) / pad_outputs * pad_outputs;
  const auto fill = [checkpoint = checkpoint_, &names](const std::string& suffix) {
    return [checkpoint, names, suffix](std::span<float> to) {
      for (const std::string& name : names) {
        const StoredTensor& tensor = checkpoint->tensor(name + suffix);
        const auto count = static_cast<std::size_t>(Outputs(tensor) * Inputs(tensor));
        CopyFloats(tensor, 0, to.first(count));
        to = to.subspan(count);
      }
    };
  };
  const std::string all = absl::StrJoin(names, "+");
  Linear linear;
  linear.n = n;
  linear.k = PadWidth(inputs);
  linear.weight = Add({.name = all + ".weight",
                       .storage = weight,
                       .rows = n,
                       .columns = linear.k,
                       .filled_columns = inputs,
                       .filled_rows = outputs,
                       .fill = fill(".weight")});
  linear.bias = Add({.name = all + ".bias",
                     .storage = y,
                     .columns = n,
                     .filled_columns = outputs,
                     .fill = fill(".bias")});
  return linear;
}

void TowerProgram::AddBlocks(const std::string& tower, bool last_token_only) {
  padded_mlp_ = PadWidth(config_.intermediate_size);
  for (std::int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    const BlockNames names(tower, i);
    Block block = {};
    block.last_token_only = last_token_only && i + 1 == config_.num_hidden_layers;
    block.norm1 = AddNorm(names.norm1);
    block.norm2 = AddNorm(names.norm2);
    if (block.last_token_only) {
      block.query = AddLinear({names.query}, Element::kCompute, Element::kCompute);
      block.key_value = AddLinear({names.key, names.value}, Element::kCompute, Element::kCompute);
    } else {
      block.qkv =
          AddLinear({names.query, names.key, names.value}, Element::kCompute, Element::kCompute);
    }
    block.out = AddLinear({names.out}, Element::kCompute, Element::kStream);
    const Element mlp = options_.fp8 ? Element::kByte : Element::kCompute;
    block.fc1 = AddLinear({names.fc1}, mlp, Element::kCompute, kWidthMultiple);
    block.fc2 = AddLinear({names.fc2}, mlp, Element::kStream);
    blocks_.push_back(block);
  }
}

void TowerProgram::AddPoolingHead() {
  const std::string head = kPoolingHead;
  const std::int64_t width = config_.hidden_size;
  const std::int64_t heads = config_.num_attention_heads;
  const Checkpoint* checkpoint = checkpoint_;
  probe_.weight = Add({.name = head + "probe.folded",
                       .rows = heads,
                       .columns = width,
                       .fill = [checkpoint](std::span<float> to) {
                         const std::vector<float> folded = FoldedProbe(*checkpoint);
                         std::copy(folded.begin(), folded.end(), to.begin());
                       }});
  probe_.bias = kNone;
  probe_.n = heads;
  probe_.k = width;
  const StoredTensor& projections = checkpoint->tensor(head + "attention.in_proj_weight");
  head_value_.weight = Add({.name = head + "value.weight",
                            .rows = width,
                            .columns = width,
                            .fill = [&projections, width](std::span<float> to) {
                              CopyFloats(projections, 2 * width * width, to);
                            }});
  head_value_.bias = kNone;
  head_value_.n = width / heads;
  head_value_.k = width;
  head_out_ = AddLinear({head + "attention.out_proj"}, Element::kCompute, Element::kFloat);
  // The values' bias, which attention's weights of sum 1 pass on as it is, goes through out_proj.
  weights_[static_cast<std::size_t>(head_out_.bias)].fill = [checkpoint, head,
                                                             width](std::span<float> to) {
    const std::vector<float> bias = LoadTensor(*checkpoint, head + "attention.in_proj_bias");
    const std::vector<float> out = LoadTensor(*checkpoint, head + "attention.out_proj.weight");
    const std::vector<float> out_bias = LoadTensor(*checkpoint, head + "attention.out_proj.bias");
    for (std::int64_t i = 0; i < width; ++i) {
      double sum = out_bias[i];
      for (std::int64_t j = 0; j < width; ++j) {
        sum += static_cast<double>(out[i * width + j]) * static_cast<double>(bias[2 * width + j]);
      }
      to[i] = static_cast<float>(sum);
    }
  };
  head_norm_ = AddNorm(head + "layernorm");
  head_fc1_ = AddLinear({head + "mlp.fc1"}, Element::kCompute, Element::kCompute, kWidthMultiple);
  head_fc2_ = AddLinear({head + "mlp.fc2"}, Element::kCompute, Element::kFloat);
}

TowerProgram TowerProgram::Vision(const Checkpoint& checkpoint, const ProgramOptions& options) {
  const VisionConfig& config = checkpoint.config().vision;
  TowerProgram program(checkpoint, config, options);
  program.vision_ = true;
  program.max_tokens_ = config.num_patches();
  program.pixels_ = config.num_channels * config.image_size * config.image_size;
  program.embedding_size_ = config.hidden_size;
  const std::string embeddings = "vision_model.embeddings.";
  program.patch_embedding_ =
      program.AddLinear({embeddings + "patch_embedding"}, Element::kCompute, Element::kFloat);
  program.patches_ = {config.num_channels, config.image_size, config.patch_size,
                      config.patches_per_side(), program.patch_embedding_.k};
  const Checkpoint* source = &checkpoint;
  const std::int64_t width = config.hidden_size;
  program.addend_ = program.Add({.name = embeddings + "position_embedding+bias",
                                 .storage = Element::kFloat,
                                 .rows = config.num_patches(),
                                 .columns = width,
                                 .fill = [source, embeddings, width](std::span<float> to) {
                                   source->CopyFloat(embeddings + "position_embedding.weight", to);
                                   const std::vector<float> bias =
                                       LoadTensor(*source, embeddings + "patch_embedding.bias");
                                   for (std::size_t i = 0; i < to.size(); ++i)
                                     to[i] += bias[i % bias.size()];
                                 }});
  program.AddBlocks("vision_model", false);
  program.final_norm_ = program.AddNorm("vision_model.post_layernorm");
  program.AddPoolingHead();
  return program;
}

TowerProgram TowerProgram::Text(const Checkpoint& checkpoint, const ProgramOptions& options) {
  const TextConfig& config = checkpoint.config().text;
  TowerProgram program(checkpoint, config, {.text_tokens = options.text_tokens});
  program.max_tokens_ = config.max_position_embeddings;
  program.embedding_size_ = config.projection_size;
  const StoredTensor& table = checkpoint.tensor("text_model.embeddings.token_embedding.weight");
  program.table_ =
      program.Add({.name = "text_model.embeddings.token_embedding.weight",
                   .rows = Outputs(table),
                   .columns = Inputs(table),
                   .fill = [&table](std::span<float> to) { CopyFloats(table, 0, to); }});
  program.positions_ =
      program.AddVector("text_model.embeddings.position_embedding.weight", Element::kFloat);
  program.AddBlocks("text_model", true);
  program.final_norm_ = program.AddNorm("text_model.final_layer_norm");
  program.head_ = program.AddLinear({"text_model.head"}, Element::kCompute, Element::kFloat);
  return program;
}

// Appends operations to one plan.
class TowerProgram::Writer {
 public:
  Writer(const TowerProgram& program, Plan& plan)
      : program_(program),
        plan_(plan),
        items_(plan.items),
        tokens_(plan.tokens),
        rows_(plan.items * plan.tokens),
        width_(program.config_.hidden_size),
        mlp_(program.padded_mlp_) {}

  void Buffers();
  void PatchEmbedding();
  void Blocks() {
    for (const Block& block : program_.blocks_) WriteBlock(block);
  }
  void VisionHead();
  void TextHead();

 private:
  Rows Dense(Buffer buffer, std::int64_t stride) const { return {buffer, 0, stride}; }
  bool IsFp8(WeightId weight) const {
    return program_.weights_[static_cast<std::size_t>(weight)].storage == Element::kByte;
  }
  void Norm(const TowerProgram::Norm& norm, const Rows& x, const Rows& y, std::int64_t rows) {
    plan_.ops.push_back(
        NormOp{norm.weight, norm.bias, x, y, rows, width_, program_.config_.layer_norm_eps});
  }
  // A norm whose output `reader` takes.
  Rows NormFor(const TowerProgram::Norm& norm, const Linear& reader, const Rows& x,
               std::int64_t rows) {
    const Rows y = Dense(IsFp8(reader.weight) ? Buffer::kQuantised : Buffer::kNormed, width_);
    Norm(norm, x, y, rows);
    return y;
  }
  // Where `reader` takes rows of kCompute from.
  Rows QuantiseFor(const Linear& reader, const Rows& x, std::int64_t rows) {
    if (!IsFp8(reader.weight)) return x;
    plan_.ops.push_back(QuantiseOp{x, rows, reader.k});
    return Dense(Buffer::kQuantised, reader.k);
  }
  void Multiply(const Linear& linear, const Rows& x, const Rows& y, std::int64_t rows,
                Extra extra = {}) {
    plan_.ops.push_back(LinearOp{.weight = linear.weight,
                                 .bias = linear.bias,
                                 .x = x,
                                 .y = y,
                                 .rows = rows,
                                 .gelu = extra.gelu,
                                 .accumulate = extra.accumulate,
                                 .n = linear.n,
                                 .k = linear.k});
  }
  void WriteBlock(const Block& block);
  void WriteProjections(const Block& block);

  const TowerProgram& program_;
  Plan& plan_;
  const std::int64_t items_, tokens_, rows_, width_, mlp_;
};

void TowerProgram::Writer::Buffers() {
  const std::int64_t heads = program_.config_.num_attention_heads;
  const auto set = [&](Buffer buffer, std::int64_t count) {
    plan_.elements[static_cast<std::size_t>(buffer)] = count;
  };
  set(Buffer::kStream, rows_ * width_);
  set(Buffer::kNormed, rows_ * width_);
  set(Buffer::kWide, rows_ * std::max(3 * width_, mlp_));
  set(Buffer::kHead, items_ * program_.embedding_size_);
  if (program_.options_.fp8) {
    set(Buffer::kQuantised, rows_ * std::max(width_, mlp_));
    set(Buffer::kRowScales, rows_);
  }
  if (!program_.vision_) return;
  set(Buffer::kPatches, rows_ * program_.patches_.padded);
  set(Buffer::kScores, rows_ * heads);
  set(Buffer::kSums, items_ * heads * width_);
  set(Buffer::kPooled, items_ * width_);
  set(Buffer::kHeadNormed, items_ * width_);
  set(Buffer::kHeadMiddle, items_ * mlp_);
}

void TowerProgram::Writer::PatchEmbedding() {
  const Rows stream = Dense(Buffer::kStream, width_);
  plan_.ops.push_back(FillOp{program_.addend_, stream, rows_, width_, tokens_});
  Linear linear = program_.patch_embedding_;
  linear.bias = kNone;  // part of the addend
  Multiply(linear, Dense(Buffer::kPatches, linear.k), stream, rows_, {.accumulate = true});
}

void TowerProgram::Writer::WriteProjections(const Block& block) {
  const Rows stream = Dense(Buffer::kStream, width_);
  if (!block.last_token_only) {
    const Rows normed = NormFor(block.norm1, block.qkv, stream, rows_);
    Multiply(block.qkv, normed, Dense(Buffer::kWide, 3 * width_), rows_);
    return;
  }
  Norm(block.norm1, stream, Dense(Buffer::kNormed, width_), rows_);
  const std::int64_t last = tokens_ - 1;
  Multiply(block.query, {Buffer::kNormed, last * width_, tokens_ * width_},
           {Buffer::kWide, last * 3 * width_, tokens_ * 3 * width_}, items_);
  Multiply(block.key_value, Dense(Buffer::kNormed, width_), {Buffer::kWide, width_, 3 * width_},
           rows_);
}

void TowerProgram::Writer::WriteBlock(const Block& block) {
  // Rows that are answered: all of them, or every tokens-th.
  const std::int64_t step = block.last_token_only ? tokens_ : 1;
  const std::int64_t answers = rows_ / step;
  const Rows answered = {Buffer::kStream, (step - 1) * width_, step * width_};
  const Rows normed = Dense(Buffer::kNormed, width_);
  const Rows middle = Dense(Buffer::kWide, mlp_);
  WriteProjections(block);
  plan_.ops.push_back(AttentionOp{items_, tokens_, program_.config_.num_attention_heads,
                                  program_.config_.head_dim(), step - 1, tokens_ / step, normed});
  Multiply(block.out, QuantiseFor(block.out, normed, answers), answered, answers,
           {.accumulate = true});
  Multiply(block.fc1, NormFor(block.norm2, block.fc1, answered, answers), middle, answers,
           {.gelu = true});
  Multiply(block.fc2, QuantiseFor(block.fc2, middle, answers), answered, answers,
           {.accumulate = true});
}

void TowerProgram::Writer::VisionHead() {
  const TowerProgram& p = program_;
  const std::int64_t heads = p.config_.num_attention_heads;
  const std::int64_t head_dim = p.config_.head_dim();
  const Rows normed = Dense(Buffer::kNormed, width_);
  const Rows head = Dense(Buffer::kHead, width_);
  const Rows head_normed = Dense(Buffer::kHeadNormed, width_);
  const Rows pooled = Dense(Buffer::kPooled, width_);
  const Rows middle = Dense(Buffer::kHeadMiddle, mlp_);
  Norm(p.final_norm_, Dense(Buffer::kStream, width_), normed, rows_);
  Multiply(p.probe_, normed, Dense(Buffer::kScores, heads), rows_);
  plan_.ops.push_back(PoolOp{items_, tokens_, heads, width_});
  plan_.ops.push_back(LinearOp{.weight = p.head_value_.weight,
                               .x = Dense(Buffer::kSums, heads * width_),
                               .y = pooled,
                               .rows = items_,
                               .n = head_dim,
                               .k = width_,
                               .count = heads,
                               .x_step = width_,
                               .weight_step = head_dim * width_,
                               .y_step = head_dim});
  Multiply(p.head_out_, pooled, head, items_);
  Norm(p.head_norm_, head, head_normed, items_);
  Multiply(p.head_fc1_, head_normed, middle, items_, {.gelu = true});
  Multiply(p.head_fc2_, middle, head, items_, {.accumulate = true});
}

void TowerProgram::Writer::TextHead() {
  const Rows last = {Buffer::kStream, (tokens_ - 1) * width_, tokens_ * width_};
  const Rows normed = Dense(Buffer::kNormed, width_);
  Norm(program_.final_norm_, last, normed, items_);
  Multiply(program_.head_, normed, Dense(Buffer::kHead, program_.embedding_size_), items_);
}

Plan TowerProgram::MakeInput(std::int64_t items, std::int64_t tokens) const {
  Plan plan;
  plan.items = items;
  plan.tokens = tokens;
  if (vision_) {
    plan.input = patches_;
  } else {
    plan.input = TokensOp{table_, positions_, tokens, config_.hidden_size};
  }
  return plan;
}

Plan TowerProgram::MakePlan(std::int64_t items, std::int64_t tokens) const {
  Plan plan = MakeInput(items, tokens);
  Writer writer(*this, plan);
  writer.Buffers();
  if (vision_) {
    writer.PatchEmbedding();
    writer.Blocks();
    writer.VisionHead();
  } else {
    writer.Blocks();
    writer.TextHead();
  }
  return plan;
}

}  // namespace siglip::cuda
