#pragma once

// The parts of GEMM that depend on the instruction set. Private to src/kernels.

#include <cstdint>

#include "kernels/gemm.h"

namespace siglip {

struct TileShape {
  int rows = 0;     // of the register tile
  int columns = 0;  // of the register tile = of a panel
  int lanes = 0;
};
TileShape GemmTileShape();

// Rows of A that are packed together; a multiple of every target's tile rows (12, 6).
inline constexpr std::int64_t kGemmBlockRows = 252;

// C's rows [row_begin, row_end), at most kGemmBlockRows, columns [column_begin, column_end), which
// start and end at panels. scratch: GemmScratchFloats(), 64-byte aligned.
void GemmBlock(const GemmCall& call, std::int64_t row_begin, std::int64_t row_end,
               std::int64_t column_begin, std::int64_t column_end, float* scratch);

}  // namespace siglip
