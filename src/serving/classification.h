#pragma once

// Triton's classification extension: instead of a tensor, its largest values as "value:index".

#include <cstdint>

#include "absl/status/statusor.h"
#include "serving/request.h"

namespace siglip {

// The `count` largest values of each row of `output` (all of it, if the model does not batch),
// largest first, as a BYTES tensor. `output` is FP32; equal values keep their order.
absl::StatusOr<OutputTensor> Classify(const OutputTensor& output, std::int64_t count, bool batched);

}  // namespace siglip
