#pragma once

// A request against the configuration of the model that it names. Texts are Triton's.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "serving/model_config.h"
#include "serving/request.h"

namespace siglip {

// "[1,3,-1]"
std::string ShapeText(std::span<const std::int64_t> shape);
// "[request id: x] ", or nothing without an id: what Triton puts before its texts.
std::string RequestPrefix(const InferRequest& request);
// The same code and payload with `prefix` before the message.
absl::Status PrefixStatus(const absl::Status& status, const std::string& prefix);

// Raw requests (deduce_input): names the one input, and gives it type and shape by the
// configuration. A request without deduce_input is left alone.
absl::Status DeduceInput(const ModelConfig& config, InferRequest& request);

// Names, types, shapes and sizes of a request. Sorts `inputs` into the configuration's order, so
// that input i is the configuration's input i. REQUIRES: no optional input in `config`.
absl::Status ValidateRequest(const ModelConfig& config, InferRequest& request);

// Rows of a validated request: its first dimension, or 1 if the model does not batch.
std::int64_t BatchSize(const ModelConfig& config, const InferRequest& request);

}  // namespace siglip
