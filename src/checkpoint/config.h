#pragma once

// config.json of a Hugging Face snapshot folder as plain numbers. Published files omit every value
// that equals the class default of transformers' SiglipConfig (NaFlex: Siglip2Config), so the
// defaults belong to the format.

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace siglip {

// The activation of the MLPs. Others are refused by name.
enum class Activation { kGeluTanh };

// What both towers have.
struct TowerConfig {
  std::int64_t hidden_size = 768;
  std::int64_t intermediate_size = 3072;
  std::int64_t num_hidden_layers = 12;
  std::int64_t num_attention_heads = 12;
  float layer_norm_eps = 1e-6f;
  Activation hidden_act = Activation::kGeluTanh;

  std::int64_t head_dim() const { return hidden_size / num_attention_heads; }
};

struct VisionConfig : TowerConfig {
  std::int64_t num_channels = 3;
  // 0: NaFlex, which takes a picture as a grid of patches of any shape.
  std::int64_t image_size = 224;
  std::int64_t patch_size = 16;
  // NaFlex: side of the square table of positions, which is resized to a picture's grid.
  std::int64_t table_side = 16;

  bool naflex() const { return image_size == 0; }
  // Of a picture. REQUIRES: !naflex().
  std::int64_t patches_per_side() const { return image_size / patch_size; }
  std::int64_t num_patches() const { return patches_per_side() * patches_per_side(); }
  // Rows of the table of positions.
  std::int64_t num_positions() const { return naflex() ? table_side * table_side : num_patches(); }
};

// Most patches that a NaFlex picture may be made of: more than the position table of any published
// checkpoint could tell apart, and small enough that no product of a tower's sizes leaves 63 bits.
inline constexpr std::int64_t kMaxPatches = 1 << 16;
// Largest side of a picture or a patch: eight times that of the largest published SigLIP.
inline constexpr std::int64_t kMaxImageSize = 4096;

struct TextConfig : TowerConfig {
  std::int64_t vocab_size = 32000;
  std::int64_t max_position_embeddings = 64;
  std::int64_t projection_size = 768;  // default: the text's hidden_size
};

struct SiglipConfig {
  VisionConfig vision;
  TextConfig text;

  // D, the width of both embeddings: the vision's hidden size, equal to text.projection_size.
  std::int64_t embedding_size() const { return vision.hidden_size; }
};

// Parses and checks config.json: model_type "siglip", or "siglip2" of NaFlex; every size in range
// (limits in the .cc, each with its reason), heads divide the width, vision hidden ==
// projection_size.
// InvalidArgument says which key, what was expected and what came. `source` names the file.
absl::StatusOr<SiglipConfig> ParseSiglipConfig(std::string_view json, const std::string& source);

// config.json of a snapshot folder. `text`, if it is not null, gets what the file holds.
absl::StatusOr<SiglipConfig> ReadSiglipConfig(const std::string& directory,
                                              std::string* text = nullptr);

}  // namespace siglip
