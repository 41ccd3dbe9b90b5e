#pragma once

// A NaFlex checkpoint's square table of positions, resized to the shape of a picture's grid.

#include <cstdint>

#include "base/thread_pool.h"

namespace siglip {

struct PositionTable {
  const float* table = nullptr;  // [side, side, width]
  std::int64_t side = 0;
  std::int64_t width = 0;
  std::int64_t rows = 0;  // of the grid
  std::int64_t columns = 0;
};

// to [rows * columns, width]: F.interpolate(bilinear, align_corners=False, antialias=True), a
// triangle filter as wide as the scale, weights normalised at the border; computed in float64 and
// rounded once. The table itself if the sizes are equal. REQUIRES: sizes >= 1. Throws
// std::bad_alloc.
void ResizePositions(ThreadTeam& team, const PositionTable& call, float* to);

}  // namespace siglip
