#pragma once

// Patches of pictures of one size as the rows of a matrix.

#include <cstdint>

#include "base/thread_pool.h"

namespace siglip {

struct PatchRowsCall {
  const float* const* images = nullptr;  // [count], each [channels, image_size, image_size]
  std::int64_t count = 0;
  std::int64_t channels = 0;
  std::int64_t image_size = 0;
  std::int64_t patch = 0;
  std::int64_t per_side = 0;
};
// to [count * per_side^2, channels * patch^2]: row (i, y, x) is [channel][patch][patch] of image i
// at (y * patch, x * patch). Pixels past per_side * patch are not read.
void GatherPatches(ThreadTeam& team, const PatchRowsCall& call, float* to);

}  // namespace siglip
