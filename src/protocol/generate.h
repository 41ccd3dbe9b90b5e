#pragma once

// Triton's generate extension: a flat JSON object instead of tensors. Keys that are inputs of the
// model become tensors, all others parameters.

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "serving/model_config.h"
#include "serving/request.h"

namespace siglip {

// The inference request (kserve_http.h) that a generate request stands for. A scalar is a tensor of
// one element, a list one of so many; a batching model gets a batch of one row, except that a list
// for an input with dims [1] is a batch of its elements.
absl::StatusOr<std::string> GenerateToInfer(std::string_view body, const ModelConfig& config);

// {"model_name":..,"model_version":..,"<output>":value or list}. REQUIRES: response.status is ok.
absl::StatusOr<std::string> RenderGenerate(const InferResponse& response);

}  // namespace siglip
