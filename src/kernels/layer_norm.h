#pragma once

#include <cstdint>

#include "base/thread_pool.h"

namespace siglip {

// y = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias for each of `rows` rows of `width`,
// in two passes: mean, then sum and squares of the differences, the former of which corrects the
// mean. x and y may be the same.
struct LayerNormCall {
  std::int64_t rows = 0;
  std::int64_t width = 0;
  const float* x = nullptr;
  std::int64_t x_stride = 0;
  const float* weight = nullptr;
  const float* bias = nullptr;
  float eps = 0;
  float* y = nullptr;
  std::int64_t y_stride = 0;
};

void LayerNorm(ThreadTeam& team, const LayerNormCall& call);

}  // namespace siglip
