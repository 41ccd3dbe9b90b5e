#pragma once

// Both towers in float64 with nothing folded, fused or skipped: what transformers' SiglipModel
// computes, from the kernels' plain references.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/checkpoint.h"
#include "kernels/reference.h"

namespace siglip::reference {

class Towers {
 public:
  explicit Towers(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  Matrix Image(const std::vector<float>& pixels) const {
    const VisionConfig& config = checkpoint_.config().vision;
    const std::int64_t width = config.hidden_size;
    const std::int64_t p = config.patch_size;
    const std::int64_t side = config.patches_per_side();
    Matrix patches;
    for (std::int64_t row = 0; row < side * side; ++row) {
      for (std::int64_t i = 0; i < config.num_channels * p * p; ++i) {
        const std::int64_t y = row / side * p + i / p % p;
        const std::int64_t x = row % side * p + i % p;
        patches.push_back(pixels[(i / (p * p) * config.image_size + y) * config.image_size + x]);
      }
    }
    Matrix x = Project(patches, "vision_model.embeddings.patch_embedding");
    Add(x, Load("vision_model.embeddings.position_embedding.weight"));
    x = Normalise(Encode(std::move(x), config, "vision_model"), "vision_model.post_layernorm",
                  config);
    const std::string head = "vision_model.head.";
    const Matrix in_weight = Load(head + "attention.in_proj_weight");
    const Matrix in_bias = Load(head + "attention.in_proj_bias");
    const auto part = [&](const Matrix& input, std::int64_t which) {
      const std::int64_t first = which * width;
      return Linear(
          input, static_cast<std::int64_t>(input.size()) / width,
          Matrix(in_weight.begin() + first * width, in_weight.begin() + (first + width) * width),
          Matrix(in_bias.begin() + first, in_bias.begin() + first + width), width, width);
    };
    const Matrix attended = Attention(part(Load(head + "probe"), 0), part(x, 1), part(x, 2),
                                      config.num_attention_heads, config.head_dim());
    Matrix y = Project(attended, head + "attention.out_proj");
    Add(y, Mlp(Normalise(y, head + "layernorm", config), head + "mlp."));
    return y;
  }

  Matrix Text(const std::vector<std::int64_t>& ids) const {
    const TextConfig& config = checkpoint_.config().text;
    const std::int64_t width = config.hidden_size;
    const Matrix tokens = Load("text_model.embeddings.token_embedding.weight");
    const Matrix positions = Load("text_model.embeddings.position_embedding.weight");
    Matrix x;
    for (std::size_t t = 0; t < ids.size(); ++t) {
      for (std::int64_t i = 0; i < width; ++i) {
        x.push_back(tokens[ids[t] * width + i] +
                    positions[static_cast<std::int64_t>(t) * width + i]);
      }
    }
    x = Normalise(Encode(std::move(x), config, "text_model"), "text_model.final_layer_norm",
                  config);
    return Project(Matrix(x.end() - width, x.end()), "text_model.head");
  }

 private:
  Matrix Load(const std::string& name) const {
    std::int64_t count = 1;
    for (const std::int64_t dim : checkpoint_.tensor(name).shape) count *= dim;
    std::vector<float> values(static_cast<std::size_t>(count));
    checkpoint_.CopyFloat(name, values);
    return {values.begin(), values.end()};
  }

  static void Add(Matrix& x, const Matrix& y) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  Matrix Project(const Matrix& x, const std::string& name) const {
    const Matrix bias = Load(name + ".bias");
    const Matrix weight = Load(name + ".weight");
    const std::int64_t n = static_cast<std::int64_t>(bias.size());
    const std::int64_t k = static_cast<std::int64_t>(weight.size()) / n;
    return Linear(x, static_cast<std::int64_t>(x.size()) / k, weight, bias, n, k);
  }

  Matrix Normalise(const Matrix& x, const std::string& name, const TowerConfig& config) const {
    return LayerNorm(x, Load(name + ".weight"), Load(name + ".bias"), config.hidden_size,
                     static_cast<double>(config.layer_norm_eps));
  }

  Matrix Mlp(const Matrix& x, const std::string& prefix) const {
    Matrix middle = Project(x, prefix + "fc1");
    for (double& value : middle) value = GeluTanh(value);
    return Project(middle, prefix + "fc2");
  }

  Matrix Encode(Matrix x, const TowerConfig& config, const std::string& tower) const {
    for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
      const std::string layer = absl::StrCat(tower, ".encoder.layers.", i, ".");
      const Matrix normed = Normalise(x, layer + "layer_norm1", config);
      const std::string attention = layer + "self_attn.";
      Add(x, Project(Attention(Project(normed, attention + "q_proj"),
                               Project(normed, attention + "k_proj"),
                               Project(normed, attention + "v_proj"), config.num_attention_heads,
                               config.head_dim()),
                     attention + "out_proj"));
      Add(x, Mlp(Normalise(x, layer + "layer_norm2", config), layer + "mlp."));
    }
    return x;
  }

  const Checkpoint& checkpoint_;
};

}  // namespace siglip::reference
