#pragma once

// A model's configuration as Triton's core hands it over: JSON, not config.pbtxt. The core has
// parsed and checked it; this takes out what the deployments need.

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "serving/model_config.h"

namespace siglip::triton {

// Name, platform, backend, max_batch_size, tensors, ensemble steps and parameters; the rest
// (scheduling, instances, warm-up) is the core's own business and stays empty. Errors name field,
// expected and found.
absl::StatusOr<ModelConfig> ParseModelConfigJson(std::string_view json);
// What a model of ours may not have, though other backends' may: fields that change shapes or
// inputs. REQUIRES: `config` was parsed from `json`.
absl::Status CheckOwnFields(std::string_view json, const ModelConfig& config);
// Whether the core runs model_warmup itself. REQUIRES: ParseModelConfigJson accepted `json`.
bool HasWarmup(std::string_view json);
// `json` with the tensors' dims of `config`. REQUIRES: `config` was parsed from `json`; tensors
// were not reordered.
std::string WithDims(std::string_view json, const ModelConfig& config);

}  // namespace siglip::triton
