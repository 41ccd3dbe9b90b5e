#pragma once

// The six deployments of model_repository/, compiled in: what is served without a
// --model-repository.

#include <span>
#include <string_view>

namespace siglip {

struct BuiltInConfig {
  std::string_view name;
  std::string_view text;    // of config.pbtxt
  std::string_view naflex;  // of configs/naflex.pbtxt; empty: config.pbtxt serves both kinds
};

std::span<const BuiltInConfig> BuiltInConfigs();

}  // namespace siglip
