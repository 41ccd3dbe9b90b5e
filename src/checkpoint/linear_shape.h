#pragma once

// A stored weight [out, ...] as the matrix [out, in] of a linear layer.

#include <cstdint>

#include "checkpoint/safetensors.h"

namespace siglip {

inline std::int64_t Outputs(const StoredTensor& weight) { return weight.shape[0]; }

inline std::int64_t Inputs(const StoredTensor& weight) {
  std::int64_t inputs = 1;
  for (std::size_t i = 1; i < weight.shape.size(); ++i) inputs *= weight.shape[i];
  return inputs;
}

}  // namespace siglip
