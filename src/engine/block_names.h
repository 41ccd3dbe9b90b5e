#pragma once

// A transformer block's tensors, by the names that a checkpoint gives them (without ".weight" and
// ".bias"). Every engine loads its blocks by these.

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"

namespace siglip {

struct BlockNames {
  // tower: "vision_model" or "text_model".
  BlockNames(const std::string& tower, std::int64_t index)
      : layer(absl::StrCat(tower, ".encoder.layers.", index, ".")) {}

  std::string layer;
  std::string norm1 = layer + "layer_norm1";
  std::string query = layer + "self_attn.q_proj";
  std::string key = layer + "self_attn.k_proj";
  std::string value = layer + "self_attn.v_proj";
  std::string out = layer + "self_attn.out_proj";
  std::string norm2 = layer + "layer_norm2";
  std::string fc1 = layer + "mlp.fc1";
  std::string fc2 = layer + "mlp.fc2";
};

}  // namespace siglip
