#pragma once

#include <cstdint>

namespace siglip {

// A picture for the vision tower of a NaFlex checkpoint, borrowed.
struct PatchImage {
  // [rows * columns, patch * patch * 3]: a row of the grid after the other, each patch in the order
  // (y, x, channel).
  const float* patches = nullptr;
  std::int64_t rows = 0;
  std::int64_t columns = 0;

  std::int64_t tokens() const { return rows * columns; }
};

}  // namespace siglip
