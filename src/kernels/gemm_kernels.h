#pragma once

// The parts of GEMM that depend on the instruction set. Private to src/kernels.

#include <algorithm>
#include <cstdint>

#include "kernels/gemm.h"

namespace siglip {

// The largest integers of GemmFormat::kInt16, by what the row is of.
struct Int16Limits {
  int activation = 0;
  int weight = 0;
};
// The sum of two has 16 bits, for Int16PairWinograd (micro_kernel-inl.h). Rows of weights rarely
// have an element of more than a quarter of a block's norm, which is where their limit begins to
// count; rows of activations do.
inline constexpr Int16Limits kInt16Limits = {.activation = 20479, .weight = 12287};
static_assert(kInt16Limits.activation + kInt16Limits.weight < 32767);
// The same of the sums of two, for strassen-inl.h.
inline constexpr Int16Limits kStrassenLimits = {.activation = 10239, .weight = 6143};
static_assert(2 * (kStrassenLimits.activation + kStrassenLimits.weight) < 32767);
inline constexpr int kMaxAttentionFactor = 16383;

struct TileShape {
  int rows = 0;                   // of the register tile, or of a pair of them
  int columns = 0;                // of the register tile = of a panel
  int lanes = 0;                  // the narrowest panel
  int steps = 1;                  // of K at a time
  std::int64_t block_steps = 0;   // of a block of K
  Int16Limits limits = {};        // kInt16 only
  int piece_columns = 0;          // of C, whose multiples pieces of work are
  int block_rows = 0;             // of A, that a piece of work multiplies; a multiple of `rows`
  std::int64_t block_floats = 0;  // of A as packed, in no more than so many rows; 0: any
  bool strassen = false;          // pairs of tiles, as strassen-inl.h has them
};
// m: rows of A; what W is packed by does not depend on it.
TileShape GemmTileShape(GemmFormat format, std::int64_t m = 1);

inline bool IsInteger(GemmFormat format) {
  return format == GemmFormat::kInt16 || format == GemmFormat::kInt8;
}

// Factors in the four bytes of a step.
inline std::int64_t FactorsOfStep(GemmFormat format) {
  switch (format) {
    case GemmFormat::kFp32:
      return 1;
    case GemmFormat::kInt16:
    case GemmFormat::kBf16:
      return 2;
    case GemmFormat::kInt8:
      return 4;
  }
  return 1;
}

// Steps of K as they are packed.
inline std::int64_t GemmSteps(std::int64_t k, GemmFormat format, const TileShape& shape) {
  const std::int64_t factors = FactorsOfStep(format);
  const std::int64_t steps = (k + factors - 1) / factors;
  return (steps + shape.steps - 1) / shape.steps * shape.steps;
}

// A tile of AMX: 16 rows (of A; or groups of four integers of K, of W) of 64 bytes.
inline constexpr int kAmxRows = 16;
inline constexpr int kAmxRowBytes = 64;
inline constexpr int kAmxTileBytes = kAmxRows * kAmxRowBytes;
// 64 integers of K, as two tiles: their upper bytes, signed, and their lower ones, which are not.
// An integer is 256 times the one plus the other.
inline constexpr int kAmxSteps = 32;
inline constexpr int kAmxPairBytes = 2 * kAmxTileBytes;
static_assert(kGemmBlockSteps % kAmxSteps == 0);
// int8 and bfloat16: a tile has 16 steps, and those of 32 rows, or of 32 columns, are two.
inline constexpr int kAmxTileSteps = 16;
inline constexpr int kAmxTwoRows = 2 * kAmxRows;
static_assert(kGemmBlockSteps % kAmxTileSteps == 0);

// strassen-inl.h: products of quarters, steps of a block of K, steps of half a block and of all
// halves.
inline constexpr int kStrassenProducts = 7;
inline constexpr std::int64_t kStrassenBlockSteps = 2 * kGemmBlockSteps;
inline std::int64_t StrassenHalf(std::int64_t block_steps) { return (block_steps + 7) / 8 * 4; }
inline std::int64_t StrassenSteps(std::int64_t steps) {
  return steps / kStrassenBlockSteps * StrassenHalf(kStrassenBlockSteps) +
         StrassenHalf(steps % kStrassenBlockSteps);
}
// Fewer rows of A are multiplied tile by tile: making the right factors would cost more than is
// saved (64 rows: 2 %; 128 rows gain 4).
inline constexpr std::int64_t kStrassenMinRows = 96;

// Blocks of K.
inline std::int64_t BlocksOf(std::int64_t steps, std::int64_t block_steps) {
  return (steps + block_steps - 1) / block_steps;
}
// Floats that a row's integers need beside themselves: the scale, and for each block of K what
// PackedMatrix::cross_products says (Int16PairWinograd, Int8QuadVnni in micro_kernel-inl.h).
inline std::int64_t IntegerRowExtra(std::int64_t blocks) { return 1 + blocks; }
// Floats of a packed row of A or W: its steps, and what integers need beside them.
std::int64_t PackedRowFloats(std::int64_t steps, GemmFormat format, const TileShape& shape);

// Some rows of A, packed: for each block of K, tiles of rows, each [steps][tile rows]; for AMX,
// pairs of tiles; for strassen-inl.h, product by product the left factors of all pairs of tiles,
// each [half the steps][tile rows].
struct PackedRows {
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  std::int64_t padded_rows = 0;  // a multiple of the tile's rows
  std::int64_t steps = 0;        // of the whole of K
  std::int64_t block_steps = 0;  // of a block of K
  bool strassen = false;
  float* memory = nullptr;  // [padded_rows * PackedRowFloats()]

  // The tile at `row`, counted from first_row, of the block of K that starts at step `first`.
  float* Tile(std::int64_t row, std::int64_t first, std::int64_t steps_of_block) const {
    return memory + padded_rows * first + row * steps_of_block;
  }
  // Integers only, each [padded_rows]: see IntegerRowExtra. kInt8: the row's zero, for every block.
  float* scales() const {
    return memory + (strassen ? half_rows() * kStrassenProducts * StrassenSteps(steps)
                              : padded_rows * steps);
  }
  std::int32_t* cross_products(std::int64_t block) const {
    return reinterpret_cast<std::int32_t*>(memory + padded_rows * (steps + 1 + block));
  }
  // strassen only: a product's left factors of the pair of tiles at `row`, in the block of K that
  // starts at step `first`; the next product's come half_rows() * half the steps later.
  float* LeftFactors(int product, std::int64_t row, std::int64_t first) const {
    const std::int64_t half = StrassenHalf(std::min(block_steps, steps - first));
    return memory + half_rows() * (kStrassenProducts * StrassenSteps(first) + product * half) +
           row / 2 * half;
  }
  // Their negated cross products; the next product's come half_rows() later.
  std::int32_t* LeftProducts(int product, std::int64_t row, std::int64_t first) const {
    return reinterpret_cast<std::int32_t*>(scales() + padded_rows) +
           half_rows() * (first / block_steps * kStrassenProducts + product) + row / 2;
  }
  std::int64_t half_rows() const { return padded_rows / 2; }
};

// A row [k] as integers.
struct QuantizedRow {
  int max_integer = 0;
  std::int64_t block_steps = 0;      // of a block of K
  std::int16_t* integers = nullptr;  // [2 * steps], the last may be padding
  float* scale = nullptr;
  std::int32_t* cross_products = nullptr;  // of each block of K, `stride` apart
  std::int64_t stride = 0;
};
void QuantizeRow(const float* row, std::int64_t k, const QuantizedRow& to);

// A row [k] of weights as integers of 8 bits.
struct QuantizedRowInt8 {
  std::int8_t* integers = nullptr;  // [k]
  float* scale = nullptr;
  std::int32_t* negated_sums = nullptr;  // of each block of K, `stride` apart
  std::int64_t stride = 0;
};
void QuantizeRowInt8(const float* row, std::int64_t k, const QuantizedRowInt8& to);
// A row [k] of weights as bfloat16 [k].
void RoundRowToBf16(const float* row, std::int64_t k, std::uint16_t* to);

// Packs the tile-th rows of `block`.
void PackTile(const GemmCall& call, const PackedRows& block, std::int64_t tile);

// C's rows of `block`, which is packed, columns [column_begin, column_end), which start and end at
// panels.
void GemmPiece(const GemmCall& call, const PackedRows& block, std::int64_t column_begin,
               std::int64_t column_end);

}  // namespace siglip
