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
TileShape GemmTileShape(GemmFormat format);

// Rows of A that a piece of work multiplies; a multiple of every target's tile rows (12, 6, 4).
inline constexpr std::int64_t kGemmBlockRows = 252;

// Of those steps of a row's block of K that come in fours, for Int16PairWinograd
// (micro_kernel-inl.h).
struct IntegerBlock {
  std::int32_t cross_products = 0;  // their negated sum, modulo 2^32
  std::int32_t magnitude = 0;       // the largest
};
// Floats that a row's integers need beside themselves: scale, then for each block of K the sum of
// cross products, then for each the magnitude.
inline std::int64_t IntegerRowExtra(std::int64_t steps) { return 1 + 2 * IntegerBlocks(steps); }

// Some rows of A, packed: for each block of K, tiles of rows, each [steps][tile rows].
struct PackedRows {
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  std::int64_t padded_rows = 0;  // a multiple of the tile's rows
  std::int64_t steps = 0;        // of the whole of K
  float* memory = nullptr;       // [padded_rows * (steps, and IntegerRowExtra(steps) if kInt16)]

  // The tile at `row`, counted from first_row, of the block of K that starts at step `first`.
  float* Tile(std::int64_t row, std::int64_t first, std::int64_t block_steps) const {
    return memory + padded_rows * first + row * block_steps;
  }
  // kInt16 only, each [padded_rows]: see IntegerRowExtra.
  float* scales() const { return memory + padded_rows * steps; }
  std::int32_t* cross_products(std::int64_t block) const {
    return reinterpret_cast<std::int32_t*>(memory + padded_rows * (steps + 1 + block));
  }
  // The largest of a row's tile.
  std::int32_t* magnitudes(std::int64_t block) const {
    return cross_products(IntegerBlocks(steps) + block);
  }
};

// A row [k] as integers.
struct QuantizedRow {
  std::int16_t* integers = nullptr;  // [2 * steps], the last may be padding
  float* scale = nullptr;
  std::int32_t* blocks = nullptr;  // cross products, then magnitudes of all blocks of K
  std::int64_t stride = 0;         // of `blocks`
};
void QuantizeRow(const float* row, std::int64_t k, const QuantizedRow& to);

// Packs the tile-th rows of `block`.
void PackTile(const GemmCall& call, const PackedRows& block, std::int64_t tile);

// C's rows of `block`, which is packed, columns [column_begin, column_end), which start and end at
// panels.
void GemmPiece(const GemmCall& call, const PackedRows& block, std::int64_t column_begin,
               std::int64_t column_end);

}  // namespace siglip
