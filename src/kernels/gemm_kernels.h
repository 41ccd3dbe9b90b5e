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

// Rows of A that a piece of work multiplies; a multiple of every target's tile rows (12, 6).
inline constexpr std::int64_t kGemmBlockRows = 252;

// Some rows of A, packed: for each block of K, tiles of rows, each [steps][tile rows].
struct PackedRows {
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  std::int64_t padded_rows = 0;  // a multiple of the tile's rows
  std::int64_t steps = 0;        // of the whole of K
  float* memory = nullptr;       // [padded_rows * (steps + 1)]

  // The tile at `row`, counted from first_row, of the block of K that starts at step `first`.
  float* Tile(std::int64_t row, std::int64_t first, std::int64_t block_steps) const {
    return memory + padded_rows * first + row * block_steps;
  }
  // [padded_rows]: an integer times its row's scale is the element of A. kInt16 only.
  float* scales() const { return memory + padded_rows * steps; }
};

// row [k] -> integers [2 * steps] (the last may be padding) and their scale.
void QuantizeRow(const float* row, std::int64_t k, std::int16_t* to, float* scale);

// Packs the tile-th rows of `block`.
void PackTile(const GemmCall& call, const PackedRows& block, std::int64_t tile);

// C's rows of `block`, which is packed, columns [column_begin, column_end), which start and end at
// panels.
void GemmPiece(const GemmCall& call, const PackedRows& block, std::int64_t column_begin,
               std::int64_t column_end);

}  // namespace siglip
