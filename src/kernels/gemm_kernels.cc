#include "kernels/gemm_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemm_kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "kernels/gemm_amx-inl.h"
#include "kernels/gemm_epilogue-inl.h"
#include "kernels/micro_kernel-inl.h"
#include "kernels/quantize-inl.h"
#include "kernels/strassen-inl.h"

HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {

// Rows of A that a piece of work multiplies.
inline constexpr int kBlockRows = 252;
static_assert(kBlockRows % kTileRows == 0 && kBlockRows % kWinogradTileRows == 0);
// Rows of a tile of full height, and of A as it is packed.
template <class Number>
inline constexpr int kRowsOf =
    std::is_same_v<Number, Int16PairWinograd> ? kWinogradTileRows : kTileRows;

// One register tile and what happens to it.
struct TileCall {
  std::int64_t steps = 0;
  const float* a = nullptr;  // [steps][tile rows]
  const float* b = nullptr;  // [steps][kTileColumns], one vector wide in a narrow last panel
  float* c = nullptr;        // whole vectors
  std::int64_t c_stride = 0;
  bool first = false;  // block of K: nothing in c yet
  Prefetch prefetch;
  CrossProducts products;  // Int16PairWinograd and Int8QuadVnni only
};

template <class Number, int kStride, int kRows, int kVectors>
HWY_NOINLINE void RunTile(const TileCall& call) {
  const FloatTag d;
  FloatVec acc[kRows][kVectors];
  float* c = call.c;
  constexpr int kFloatsOfLine = 16;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int x = 0; x < kVectors * kLanes; x += kFloatsOfLine) {
      __builtin_prefetch(c + r * call.c_stride + x, 1);
    }
  }
  MultiplyTile<Number, kRows, kVectors, kStride, kVectors * kLanes>(call.steps, call.a, call.b, acc,
                                                                    call.prefetch, call.products);
  if (call.first) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        hn::StoreU(acc[r][v], d, c + r * call.c_stride + v * kLanes);
      }
    }
  } else {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        float* to = c + r * call.c_stride + v * kLanes;
        hn::StoreU(hn::Add(hn::LoadU(d, to), acc[r][v]), d, to);
      }
    }
  }
}

using TileFunction = void (*)(const TileCall&);

template <class Number, int kStride, int kVectors, int... kRowsLessOne>
HWY_INLINE TileFunction TileOfRows(std::integer_sequence<int, kRowsLessOne...>, std::int64_t rows) {
  static constexpr TileFunction kByRows[] = {
      RunTile<Number, kStride, kRowsLessOne + 1, kVectors>...};
  return kByRows[rows - 1];
}

// REQUIRES: rows <= kStride.
template <class Number, int kStride>
HWY_INLINE void RunTileOf(std::int64_t rows, bool wide, const TileCall& call) {
  constexpr std::make_integer_sequence<int, kStride> kRows;
  (wide ? TileOfRows<Number, kStride, 2>(kRows, rows)
        : TileOfRows<Number, kStride, 1>(kRows, rows))(call);
}

void QuantizeRowTarget(const float* row, std::int64_t k, const QuantizedRow& to) {
  const Quantizer quantizer = ChooseQuantizer(row, k, to.max_integer, 2 * to.block_steps);
  *to.scale = quantizer.scale;
  Quantize(row, 0, k, quantizer, to.integers);
  // Its scale says that there is no number; the integers are to stay within their limit.
  if (std::isnan(quantizer.scale)) std::fill_n(to.integers, k, std::int16_t{0});
  const std::int64_t steps = (k + 1) / 2;
  for (std::int64_t step = 0; step < steps; step += to.block_steps) {
    to.cross_products[step / to.block_steps * to.stride] =
        NegatedCrossProducts(to.integers + 2 * step, std::min(to.block_steps, steps - step));
  }
}

// Weights for vpdpbusd and TDPBUSD.
void QuantizeRowInt8Target([[maybe_unused]] const float* row, [[maybe_unused]] std::int64_t k,
                           [[maybe_unused]] const QuantizedRowInt8& to) {
#if SIGLIP_TARGET_HAS_INT8
  const Quantizer quantizer = ChooseWeightQuantizerInt8(row, k);
  *to.scale = quantizer.scale;
  QuantizeWeightsInt8(row, k, quantizer, to.integers);
  constexpr std::int64_t kBlock = 4 * kGemmBlockSteps;
  for (std::int64_t first = 0; first < k; first += kBlock) {
    std::int32_t sum = 0;
    for (std::int64_t i = first; i < std::min(k, first + kBlock); ++i) sum -= to.integers[i];
    to.negated_sums[first / kBlock * to.stride] = sum;
  }
#endif
}

void RoundRowToBf16Target([[maybe_unused]] const float* row, [[maybe_unused]] std::int64_t k,
                          [[maybe_unused]] std::uint16_t* to) {
#if SIGLIP_TARGET_HAS_AMX
  for (std::int64_t i = 0; i < k; i += kGemmBlockSteps) {
    HWY_ALIGN std::uint16_t rounded[kGemmBlockSteps];
    const std::int64_t count = std::min(kGemmBlockSteps, k - i);
    RoundToBfloat16(row + i, count, rounded);
    std::copy_n(rounded, count, to + i);
  }
#endif
}

template <int kStride>
void PackTileInt16(const GemmCall& call, const PackedRows& block, std::int64_t first,
                   std::int64_t rows) {
  const std::int64_t k = call.w->k();
  const float* row = call.a + (block.first_row + first) * call.a_stride;
  Quantizer quantizers[kStride];
  ChooseQuantizers(call, block, first, rows, GemmTileShape(GemmFormat::kInt16).limits.activation,
                   quantizers);
  for (std::int64_t step = 0; step < block.steps; step += block.block_steps) {
    const std::int64_t steps = std::min(block.block_steps, block.steps - step);
    QuantizeAndPack<kStride, kStride>(
        row, call.a_stride, rows, 2 * step, std::min(2 * steps, k - 2 * step), quantizers,
        block.Tile(first, step, steps), block.cross_products(step / block.block_steps) + first);
  }
}

#if SIGLIP_TARGET_HAS_INT8
void PackTileInt8(const GemmCall& call, const PackedRows& block, std::int64_t first,
                  std::int64_t rows) {
  const float* row = call.a + (block.first_row + first) * call.a_stride;
  QuantizerInt8 quantizers[kTileRows];
  ChooseQuantizersInt8(call, block, first, rows, quantizers);
  HWY_ALIGN float integers[kTileRows * kGemmBlockSteps];
  const float* from[kTileRows];
  for (std::int64_t r = 0; r < rows; ++r) from[r] = integers + r * kGemmBlockSteps;
  for (std::int64_t step = 0; step < block.steps; step += kGemmBlockSteps) {
    const std::int64_t steps = std::min(kGemmBlockSteps, block.steps - step);
    for (std::int64_t r = 0; r < rows; ++r) {
      QuantizeInt8(row + r * call.a_stride, 4 * step, std::min(4 * steps, call.w->k() - 4 * step),
                   quantizers[r], reinterpret_cast<std::uint8_t*>(integers + r * kGemmBlockSteps));
    }
    PackRows<kTileRows>(from, rows, steps, block.Tile(first, step, steps));
  }
}
#endif

void PackTileFp32(const GemmCall& call, const PackedRows& block, std::int64_t first,
                  std::int64_t rows) {
  for (std::int64_t k_first = 0; k_first < call.w->k(); k_first += kGemmBlockK) {
    const std::int64_t k = std::min(kGemmBlockK, call.w->k() - k_first);
    const float* from[kTileRows];
    for (std::int64_t r = 0; r < rows; ++r) {
      from[r] = call.a + (block.first_row + first + r) * call.a_stride + k_first;
    }
    PackRows<kTileRows>(from, rows, k, block.Tile(first, k_first, k));
  }
}

TileShape TileShapeTarget(GemmFormat format, [[maybe_unused]] std::int64_t m) {
  TileShape shape = {.rows = kTileRows,
                     .columns = kTileColumns,
                     .lanes = kLanes,
                     .steps = 1,
                     .block_steps = kGemmBlockSteps,
                     .limits = kInt16Limits,
                     .piece_columns = kTileColumns,
                     .block_rows = kBlockRows};
  if (format == GemmFormat::kFp32) shape.block_steps = kGemmBlockK;
  if (format == GemmFormat::kBf16) shape.block_steps = 4 * kGemmBlockSteps;
  const bool int16 = format == GemmFormat::kInt16;
#if SIGLIP_TARGET_HAS_AMX
  if (format != GemmFormat::kFp32 && KernelUsesAmx()) {
    shape.rows = int16 ? kAmxRows : kAmxTwoRows;
    shape.columns = shape.rows;
    shape.lanes = shape.rows;
    shape.steps = int16 ? kAmxSteps : kAmxTileSteps;
    shape.piece_columns = shape.rows;
    shape.block_rows = kAmxBlockRows;
    shape.block_floats = kAmxBlockFloats;
    return shape;
  }
#endif
  if (!int16 || KernelUsesVnni()) return shape;
  shape.rows = kWinogradTileRows;
#if HWY_TARGET == HWY_AVX2
  shape.block_steps = kStrassenBlockSteps;
  shape.limits = kStrassenLimits;
  if (m >= kStrassenMinRows) {
    shape.strassen = true;
    shape.rows = 2 * kWinogradTileRows;
    shape.piece_columns = 2 * kTileColumns;
    shape.block_rows = kStrassenBlockRows;
  }
#endif
  return shape;
}

void PackTileTarget(const GemmCall& call, const PackedRows& block, std::int64_t tile) {
  const GemmFormat format = call.w->format();
  const std::int64_t height = TileShapeTarget(format, call.m).rows;
  const std::int64_t first = tile * height;
  const std::int64_t rows = std::min(height, block.rows - first);
  auto pack = PackTileFp32;
  if (format == GemmFormat::kInt16) {
    pack = height == kTileRows ? PackTileInt16<kTileRows> : PackTileInt16<kWinogradTileRows>;
#if HWY_TARGET == HWY_AVX2
    if (block.strassen) pack = PackPairOfTiles;
#endif
  }
#if SIGLIP_TARGET_HAS_INT8
  if (format == GemmFormat::kInt8) pack = PackTileInt8;
#endif
#if SIGLIP_TARGET_HAS_AMX
  if (KernelUsesAmx()) {
    if (format == GemmFormat::kInt16) pack = PackTileAmx;
    if (format == GemmFormat::kInt8) pack = PackTileAmxInt8;
    if (format == GemmFormat::kBf16) pack = PackTileAmxBf16;
  }
#endif
  pack(call, block, first, rows);
}

// The panel at `column` by all rows of the block.
template <class Number>
void MultiplyPanel(const GemmCall& call, const PackedRows& block, std::int64_t step,
                   std::int64_t column, PrefetchQueue prefetch) {
  constexpr bool kInteger = !std::is_same_v<Number, Float32>;
  constexpr int kRows = kRowsOf<Number>;
  const PackedMatrix& w = *call.w;
  const std::int64_t width = std::min<std::int64_t>(kTileColumns, w.padded_n() - column);
  const std::int64_t columns = std::min(width, w.n() - column);
  const bool epilogue = kInteger || call.bias != nullptr || call.gelu || call.residual != nullptr;
  HWY_ALIGN float ragged[kRows * kTileColumns] = {};
  TileCall tile;
  tile.steps = std::min(w.block_steps(), w.steps() - step);
  tile.first = step == 0;
  tile.b = w.Panel(column, step, tile.steps);
  const bool last = step + tile.steps == w.steps();
  const std::int32_t* row_products = nullptr;
  if constexpr (kInteger) {
    const std::int64_t k_block = step / w.block_steps();
    row_products = block.cross_products(k_block);
    tile.products.columns = w.cross_products(k_block) + column;
  }
  for (std::int64_t row = 0; row < block.rows; row += kRows) {
    const std::int64_t rows = std::min<std::int64_t>(kRows, block.rows - row);
    float* c = call.c + (block.first_row + row) * call.c_stride + column;
    tile.a = block.Tile(row, step, tile.steps);
    tile.c = c;
    tile.c_stride = call.c_stride;
    if (columns < width) {
      tile.c = ragged;
      tile.c_stride = kTileColumns;
      if (!tile.first) CopyColumns(c, call.c_stride, rows, columns, ragged, kTileColumns);
    }
    tile.prefetch = prefetch.Next(tile.steps);
    if (last) PrefetchResidual(call, block.first_row + row, rows, column, kTileColumns);
    if constexpr (kInteger) tile.products.rows = row_products + row;
    RunTileOf<Number, kRows>(rows, width > kLanes, tile);
    if (last && epilogue) {
      RunEpilogue<Number::kFormat>(call, {.row = block.first_row + row,
                                          .column = column,
                                          .rows = rows,
                                          .columns = columns,
                                          .c = tile.c,
                                          .c_stride = tile.c_stride,
                                          .row_scales = kInteger ? block.scales() + row : nullptr});
    }
    if (columns < width) CopyColumns(ragged, kTileColumns, rows, columns, c, call.c_stride);
  }
}

void GemmPieceTarget(const GemmCall& call, const PackedRows& block, std::int64_t column_begin,
                     std::int64_t column_end) {
  const PackedMatrix& w = *call.w;
#if SIGLIP_TARGET_HAS_AMX
  if (w.format() != GemmFormat::kFp32 && KernelUsesAmx()) {
    auto multiply = GemmPieceAmx<AmxInt16>;
    if (w.format() == GemmFormat::kInt8) multiply = GemmPieceAmx<AmxInt8>;
    if (w.format() == GemmFormat::kBf16) multiply = GemmPieceAmx<AmxBf16>;
    return multiply(call, block, column_begin, column_end);
  }
#endif
#if HWY_TARGET == HWY_AVX2
  if (block.strassen) return GemmPieceStrassen(call, block, column_begin, column_end);
#endif
  auto multiply = MultiplyPanel<Float32>;
  if (w.format() == GemmFormat::kInt16) {
    multiply = KernelUsesVnni() ? MultiplyPanel<Int16PairVnni> : MultiplyPanel<Int16PairWinograd>;
  }
#if SIGLIP_TARGET_HAS_INT8
  if (w.format() == GemmFormat::kInt8) multiply = MultiplyPanel<Int8QuadVnni>;
#endif
  for (std::int64_t step = 0; step < w.steps(); step += w.block_steps()) {
    for (std::int64_t column = column_begin; column < column_end; column += kTileColumns) {
      multiply(call, block, step, column,
               AfterPanels(call, block, step, kTileColumns, column, column_begin, column_end));
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace siglip {
HWY_EXPORT(QuantizeRowTarget);
HWY_EXPORT(QuantizeRowInt8Target);
HWY_EXPORT(RoundRowToBf16Target);
HWY_EXPORT(PackTileTarget);
HWY_EXPORT(GemmPieceTarget);
HWY_EXPORT(TileShapeTarget);

void QuantizeRow(const float* row, std::int64_t k, const QuantizedRow& to) {
  HWY_DYNAMIC_DISPATCH(QuantizeRowTarget)(row, k, to);
}
void QuantizeRowInt8(const float* row, std::int64_t k, const QuantizedRowInt8& to) {
  HWY_DYNAMIC_DISPATCH(QuantizeRowInt8Target)(row, k, to);
}
void RoundRowToBf16(const float* row, std::int64_t k, std::uint16_t* to) {
  HWY_DYNAMIC_DISPATCH(RoundRowToBf16Target)(row, k, to);
}
void PackTile(const GemmCall& call, const PackedRows& block, std::int64_t tile) {
  HWY_DYNAMIC_DISPATCH(PackTileTarget)(call, block, tile);
}
void GemmPiece(const GemmCall& call, const PackedRows& block, std::int64_t column_begin,
               std::int64_t column_end) {
  HWY_DYNAMIC_DISPATCH(GemmPieceTarget)(call, block, column_begin, column_end);
}
TileShape GemmTileShape(GemmFormat format, std::int64_t m) {
  return HWY_DYNAMIC_DISPATCH(TileShapeTarget)(format, m);
}

}  // namespace siglip
#endif  // HWY_ONCE
