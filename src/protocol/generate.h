#pragma once

// Triton's generate extension: a flat JSON object instead of tensors. Keys that are inputs of the
// model become tensors, all others parameters.

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "serving/model_config.h"
#include "serving/request.h"

namespace siglip {

// What a generate request stands for: the JSON of an inference request (kserve_http.h), and the
// parameters that belong to it, whatever their names: none is an option of the request, as none is
// in Triton.
struct GenerateBody {
  std::string infer;
  Parameters parameters;
};

// A scalar is a tensor of one element, a list one of so many: a batching model gets as many rows as
// the list fills, one if it fills no whole number of them or the input's dims are open.
absl::StatusOr<GenerateBody> GenerateToInfer(std::string_view body, const ModelConfig& config);

// {"model_name":..,"model_version":..,"<output>":value or list}. REQUIRES: response.status is ok.
absl::StatusOr<std::string> RenderGenerate(const InferResponse& response);

}  // namespace siglip
