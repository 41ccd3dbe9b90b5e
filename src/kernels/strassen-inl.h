// Products of blocks of 16-bit integers with seven multiplications of their quarters instead of
// eight (V. Strassen, "Gaussian Elimination is not Optimal", 1969), each by Winograd's inner
// products. Included once per Highway target by the .cc files of src/kernels.
//
//   M1 = (A11 + A22) (B11 + B22)     M5 = (A11 + A12) B22
//   M2 = (A21 + A22) B11             M6 = (A21 - A11) (B11 + B12)
//   M3 = A11 (B12 - B22)             M7 = (A12 - A22) (B21 + B22)
//   M4 = A22 (B21 - B11)
//   C11 = M1 + M4 - M5 + M7          C12 = M3 + M5
//   C21 = M2 + M4                    C22 = M1 - M2 + M3 + M6
//
// A's rows are cut into tiles, whose two of a pair are its upper and its lower half; W's panels
// likewise, and a block of K in its middle. Integers are exact and what overflows comes back,
// modulo 2^32: no bit of C depends on what its row shares a pair with. REQUIRES: sums of two
// integers of A and two of W have 16 bits (kStrassenLimits).

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/gemm_epilogue-inl.h"
#include "kernels/gemm_kernels.h"
#include "kernels/micro_kernel-inl.h"
#include "kernels/quantize-inl.h"

#if defined(SIGLIP_KERNELS_STRASSEN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SIGLIP_KERNELS_STRASSEN_INL_H_
#undef SIGLIP_KERNELS_STRASSEN_INL_H_
#else
#define SIGLIP_KERNELS_STRASSEN_INL_H_
#endif

#if HWY_TARGET == HWY_AVX2
HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {

// Rows of A that a piece of work multiplies. All of a picture of so400m: the more there are, the
// fewer right factors are made.
inline constexpr int kStrassenBlockRows = 768;
static_assert(kStrassenBlockRows % (2 * kWinogradTileRows) == 0);

using Int16Tag = hn::Repartition<std::int16_t, FloatTag>;
using Int16Vec = hn::Vec<Int16Tag>;

// The left factors of M1 to M7.
HWY_INLINE void LeftFactors(Int16Vec a11, Int16Vec a12, Int16Vec a21, Int16Vec a22,
                            Int16Vec (&to)[kStrassenProducts]) {
  to[0] = hn::Add(a11, a22);
  to[1] = hn::Add(a21, a22);
  to[2] = a11;
  to[3] = a22;
  to[4] = hn::Add(a11, a12);
  to[5] = hn::Sub(a21, a11);
  to[6] = hn::Sub(a12, a22);
}

// The right factor of one of them, counted from 0.
template <int kProduct>
HWY_INLINE Int16Vec RightFactor(const float* b11, const float* b12, const float* b21,
                                const float* b22) {
  const auto load = [](const float* from)
                        HWY_ATTR { return hn::BitCast(Int16Tag(), hn::LoadU(FloatTag(), from)); };
  if constexpr (kProduct == 0) return hn::Add(load(b11), load(b22));
  if constexpr (kProduct == 1) return load(b11);
  if constexpr (kProduct == 2) return hn::Sub(load(b12), load(b22));
  if constexpr (kProduct == 3) return hn::Sub(load(b21), load(b11));
  if constexpr (kProduct == 4) return load(b22);
  if constexpr (kProduct == 5) return hn::Add(load(b11), load(b12));
  if constexpr (kProduct == 6) return hn::Add(load(b21), load(b22));
}

// Steps of a pair of tiles, the upper and the lower, each [2 * half][4] -> the left factors, each
// [half][4] and `stride` apart, and their negated cross products, each [4] and `products_stride`
// apart.
inline void PackLeftFactors(const float* upper, const float* lower, std::int64_t half, float* to,
                            std::int64_t stride, std::int32_t* products,
                            std::int64_t products_stride) {
  static_assert(kWinogradTileRows == 4 && kLanes == 8);
  const auto load = [](const float* from)
                        HWY_ATTR { return hn::BitCast(Int16Tag(), hn::LoadU(FloatTag(), from)); };
  __m128i sums[kStrassenProducts];
  for (auto& sum : sums) sum = _mm_setzero_si128();
  for (std::int64_t i = 0; i < 4 * half; i += kLanes) {  // two steps of four rows
    Int16Vec factors[kStrassenProducts];
    LeftFactors(load(upper + i), load(upper + 4 * half + i), load(lower + i),
                load(lower + 4 * half + i), factors);
#pragma GCC unroll 7
    for (int f = 0; f < kStrassenProducts; ++f) {
      const __m256i both = factors[f].raw;
      sums[f] = _mm_sub_epi32(
          sums[f], _mm_madd_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
      hn::StoreU(hn::BitCast(FloatTag(), factors[f]), FloatTag(), to + f * stride + i);
    }
  }
  for (int f = 0; f < kStrassenProducts; ++f) Store128(sums[f], products + f * products_stride);
}

// A pair of tiles. Rows that are not there, or whose values are not all finite, are zeros, since
// all integers must keep to their limit.
inline void PackPairOfTiles(const GemmCall& call, const PackedRows& block, std::int64_t first,
                            std::int64_t rows) {
  constexpr std::int64_t kTile = kWinogradTileRows;
  const std::int64_t k = call.w->k();
  const float* row = call.a + (block.first_row + first) * call.a_stride;
  Quantizer quantizers[2][kTile];
  ChooseQuantizers(call, block, first, rows, kStrassenLimits.activation, quantizers[0]);
  for (std::int64_t step = 0; step < block.steps; step += block.block_steps) {
    const std::int64_t steps = std::min(block.block_steps, block.steps - step);
    const std::int64_t half = StrassenHalf(steps);
    HWY_ALIGN float tiles[2][kTile * kStrassenBlockSteps];
    for (std::int64_t t = 0; t < 2; ++t) {
      const std::int64_t there = std::clamp<std::int64_t>(rows - t * kTile, 0, kTile);
      if (there < kTile) std::fill_n(tiles[t], kTile * 2 * half, 0.0f);
      if (there == 0) continue;
      std::fill(tiles[t] + kTile * steps, tiles[t] + kTile * 2 * half, 0.0f);
      std::int32_t unused[kTile];
      QuantizeAndPack<kTile, kTile>(row + t * kTile * call.a_stride, call.a_stride, there, 2 * step,
                                    std::min(2 * steps, k - 2 * step), quantizers[t], tiles[t],
                                    unused);
      for (std::int64_t r = 0; r < there; ++r) {
        if (!std::isnan(quantizers[t][r].scale)) continue;
        for (std::int64_t i = 0; i < steps; ++i) tiles[t][kTile * i + r] = 0;
      }
    }
    PackLeftFactors(tiles[0], tiles[1], half, block.LeftFactors(0, first, step),
                    block.half_rows() * half, block.LeftProducts(0, first, step),
                    block.half_rows());
  }
}

// Two panels of W for a block of K, and one right factor of them at a time, which stays in the
// first-level cache.
struct RightPanels {
  const float* left = nullptr;  // [2 * half][kTileColumns]
  const float* right = nullptr;
  std::int64_t half = 0;
  const float* factor = nullptr;                  // [half][kTileColumns]
  HWY_ALIGN std::int32_t products[kTileColumns];  // its negated cross products
  HWY_ALIGN float sums[kStrassenBlockSteps / 2 * kTileColumns];
};

template <int kProduct>
HWY_INLINE void MakeRightFactor(RightPanels& panels) {
  const FloatTag d;
  const std::int64_t floats = panels.half * kTileColumns;
  const float* b11 = panels.left;
  const float* b12 = panels.right;
  const float* b21 = b11 + floats;
  const float* b22 = b12 + floats;
  IntVec products[2] = {hn::Zero(IntTag()), hn::Zero(IntTag())};
  for (std::int64_t i = 0; i < floats; i += 2 * kTileColumns) {
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      const std::int64_t at = i + v * kLanes;
      const std::int64_t next = at + kTileColumns;
      const auto first = RightFactor<kProduct>(b11 + at, b12 + at, b21 + at, b22 + at);
      const auto second = RightFactor<kProduct>(b11 + next, b12 + next, b21 + next, b22 + next);
      products[v].raw = _mm256_sub_epi32(products[v].raw, _mm256_madd_epi16(first.raw, second.raw));
      if constexpr (kProduct == 1 || kProduct == 4) continue;
      hn::Store(hn::BitCast(d, first), d, panels.sums + at);
      hn::Store(hn::BitCast(d, second), d, panels.sums + next);
    }
  }
  for (int v = 0; v < 2; ++v) hn::Store(products[v], IntTag(), panels.products + v * kLanes);
  panels.factor = kProduct == 1 ? b11 : kProduct == 4 ? b22 : panels.sums;
}

// Two panels by all rows of the block, in a block of K.
struct StrassenPanels {
  const GemmCall* call = nullptr;
  const PackedRows* block = nullptr;
  std::int64_t step = 0;
  std::int64_t column = 0;  // of the left panel
  bool first = false;       // block of K: nothing in c yet
  bool last = false;
  RightPanels* right = nullptr;
  std::int32_t* sums = nullptr;  // of quarters, [4][kStrassenBlockRows / 2][kTileColumns]
  PrefetchQueue* prefetch = nullptr;
};

// What becomes of a product in a quarter of C; the last finishes it.
enum class StrassenUse { kNone, kStore, kAdd, kSubtract, kFinish };
struct StrassenUses {
  StrassenUse of[4];  // C11, C12, C21, C22
};
inline constexpr StrassenUses kStrassenUses[kStrassenProducts] = {
    {{StrassenUse::kStore, StrassenUse::kNone, StrassenUse::kNone, StrassenUse::kStore}},
    {{StrassenUse::kNone, StrassenUse::kNone, StrassenUse::kStore, StrassenUse::kSubtract}},
    {{StrassenUse::kNone, StrassenUse::kStore, StrassenUse::kNone, StrassenUse::kAdd}},
    {{StrassenUse::kAdd, StrassenUse::kNone, StrassenUse::kFinish, StrassenUse::kNone}},
    {{StrassenUse::kSubtract, StrassenUse::kFinish, StrassenUse::kNone, StrassenUse::kNone}},
    {{StrassenUse::kNone, StrassenUse::kNone, StrassenUse::kNone, StrassenUse::kFinish}},
    {{StrassenUse::kFinish, StrassenUse::kNone, StrassenUse::kNone, StrassenUse::kNone}},
};

// The tile of C that is a quarter of the pair of tiles at `row`.
struct StrassenTile {
  std::int64_t row = 0;   // of the block
  std::int64_t rows = 0;  // that exist; may be none
  std::int64_t column = 0;
  std::int64_t columns = 0;
  float* c = nullptr;
};
HWY_INLINE StrassenTile TileOfQuarter(const StrassenPanels& panels, std::int64_t row, int quarter) {
  const GemmCall& call = *panels.call;
  StrassenTile tile;
  tile.row = row + quarter / 2 * kWinogradTileRows;
  tile.rows = std::min<std::int64_t>(kWinogradTileRows, panels.block->rows - tile.row);
  tile.column = panels.column + quarter % 2 * kTileColumns;
  tile.columns = std::min<std::int64_t>(kTileColumns, call.w->n() - tile.column);
  tile.c = call.c + (panels.block->first_row + tile.row) * call.c_stride + tile.column;
  return tile;
}

// Adds a quarter's sums to C, and after the last block of K runs the epilogue.
HWY_INLINE void FinishQuarter(const StrassenPanels& panels, std::int64_t row, int quarter,
                              const IntVec (&sums)[kWinogradTileRows][kTileVectors]) {
  const FloatTag d;
  const GemmCall& call = *panels.call;
  const StrassenTile tile = TileOfQuarter(panels, row, quarter);
  if (tile.rows <= 0 || tile.columns <= 0) return;
  HWY_ALIGN float ragged[kWinogradTileRows * kTileColumns];
  const bool whole = tile.rows == kWinogradTileRows && tile.columns == kTileColumns;
  float* to = whole ? tile.c : ragged;
  const std::int64_t stride = whole ? call.c_stride : kTileColumns;
  if (!whole && !panels.first) {
    CopyColumns(tile.c, call.c_stride, tile.rows, tile.columns, ragged, kTileColumns);
  }
#pragma GCC unroll 4
  for (int r = 0; r < kWinogradTileRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) {
      float* at = to + r * stride + v * kLanes;
      auto value = hn::ConvertTo(d, sums[r][v]);
      if (!panels.first) value = hn::Add(hn::LoadU(d, at), value);
      hn::StoreU(value, d, at);
    }
  }
  if (panels.last) {
    RunEpilogue<GemmFormat::kInt16>(call, {.row = panels.block->first_row + tile.row,
                                           .column = tile.column,
                                           .rows = tile.rows,
                                           .columns = tile.columns,
                                           .c = to,
                                           .c_stride = stride,
                                           .row_scales = panels.block->scales() + tile.row});
  }
  if (!whole) CopyColumns(ragged, kTileColumns, tile.rows, tile.columns, tile.c, call.c_stride);
}

template <int kProduct>
HWY_NOINLINE void RunStrassenProduct(const StrassenPanels& panels) {
  constexpr const StrassenUse(&kUses)[4] = kStrassenUses[kProduct].of;
  const PackedRows& block = *panels.block;
  const IntTag d;
  MakeRightFactor<kProduct>(*panels.right);
  for (std::int64_t row = 0; row < block.rows; row += 2 * kWinogradTileRows) {
#pragma GCC unroll 4
    for (int quarter = 0; quarter < 4; ++quarter) {
      if (kUses[quarter] != StrassenUse::kFinish) continue;
      const StrassenTile tile = TileOfQuarter(panels, row, quarter);
      if (tile.columns <= 0) continue;
      for (std::int64_t r = 0; r < tile.rows; ++r) {
        __builtin_prefetch(tile.c + r * panels.call->c_stride, 1);
      }
      if (panels.last) {
        PrefetchResidual(*panels.call, block.first_row + tile.row, tile.rows, tile.column,
                         kTileColumns);
      }
    }
    IntVec sums[kWinogradTileRows][kTileVectors];
    const std::int32_t* left = block.LeftProducts(kProduct, row, panels.step);
#pragma GCC unroll 4
    for (int r = 0; r < kWinogradTileRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kTileVectors; ++v) {
        sums[r][v] = hn::Add(hn::Set(d, left[r]), hn::Load(d, panels.right->products + v * kLanes));
      }
    }
    const Prefetch next = panels.prefetch->Next(panels.right->half);
    const bool some = next.from < next.end;
    const float* right = panels.right->factor;
    MultiplyFullTileWinograd<kWinogradTileRows, kTileColumns>(
        panels.right->half / 4, block.LeftFactors(kProduct, row, panels.step), right, sums,
        some ? next.from : reinterpret_cast<const char*>(right), some ? kCacheLine : 0);
#pragma GCC unroll 4
    for (int quarter = 0; quarter < 4; ++quarter) {
      const StrassenUse use = kUses[quarter];
      if (use == StrassenUse::kNone) continue;
      std::int32_t* of = panels.sums + (quarter * kStrassenBlockRows / 2 + row / 2) * kTileColumns;
#pragma GCC unroll 4
      for (int r = 0; r < kWinogradTileRows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < kTileVectors; ++v) {
          std::int32_t* at = of + r * kTileColumns + v * kLanes;
          if (use == StrassenUse::kStore) hn::Store(sums[r][v], d, at);
          if (use == StrassenUse::kAdd) hn::Store(hn::Add(hn::Load(d, at), sums[r][v]), d, at);
          if (use == StrassenUse::kSubtract) hn::Store(hn::Sub(hn::Load(d, at), sums[r][v]), d, at);
        }
      }
      if (use == StrassenUse::kFinish) {
        IntVec all[kWinogradTileRows][kTileVectors];
#pragma GCC unroll 4
        for (int r = 0; r < kWinogradTileRows; ++r) {
#pragma GCC unroll 2
          for (int v = 0; v < kTileVectors; ++v) {
            all[r][v] = hn::Add(hn::Load(d, of + r * kTileColumns + v * kLanes), sums[r][v]);
          }
        }
        FinishQuarter(panels, row, quarter, all);
      }
    }
  }
}

// W's panels at `column` and after it, as whole ones of 2 * half steps, whose surplus is zero.
inline void LoadRightPanels(const PackedMatrix& w, std::int64_t column, std::int64_t step,
                            std::int64_t steps, RightPanels& to, float* copies) {
  const float** panels[2] = {&to.left, &to.right};
  for (std::int64_t i = 0; i < 2; ++i, copies += kStrassenBlockSteps * kTileColumns) {
    const std::int64_t first = column + i * kTileColumns;
    const std::int64_t width = std::clamp<std::int64_t>(w.padded_n() - first, 0, kTileColumns);
    if (width == kTileColumns && steps == 2 * to.half) {
      *panels[i] = w.Panel(first, step, steps);
      continue;
    }
    std::fill_n(copies, 2 * to.half * kTileColumns, 0.0f);
    if (width > 0) {
      CopyColumns(w.Panel(first, step, steps), width, steps, width, copies, kTileColumns);
    }
    *panels[i] = copies;
  }
}

inline void GemmPieceStrassen(const GemmCall& call, const PackedRows& block,
                              std::int64_t column_begin, std::int64_t column_end) {
  const PackedMatrix& w = *call.w;
  RightPanels right;
  HWY_ALIGN float copies[2 * kStrassenBlockSteps * kTileColumns];
  HWY_ALIGN std::int32_t sums[4 * kStrassenBlockRows / 2 * kTileColumns];
  StrassenPanels panels;
  panels.call = &call;
  panels.block = &block;
  panels.right = &right;
  panels.sums = sums;
  for (std::int64_t step = 0; step < w.steps(); step += kStrassenBlockSteps) {
    const std::int64_t steps = std::min(kStrassenBlockSteps, w.steps() - step);
    panels.step = step;
    right.half = StrassenHalf(steps);
    panels.first = step == 0;
    panels.last = step + steps == w.steps();
    for (std::int64_t column = column_begin; column < column_end; column += 2 * kTileColumns) {
      PrefetchQueue prefetch =
          AfterPanels(call, block, step, 2 * kTileColumns, column, column_begin, column_end);
      panels.column = column;
      panels.prefetch = &prefetch;
      LoadRightPanels(w, column, step, steps, right, copies);
      RunStrassenProduct<0>(panels);
      RunStrassenProduct<1>(panels);
      RunStrassenProduct<2>(panels);
      RunStrassenProduct<3>(panels);
      RunStrassenProduct<4>(panels);
      RunStrassenProduct<5>(panels);
      RunStrassenProduct<6>(panels);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();
#endif  // HWY_TARGET == HWY_AVX2

#endif  // include guard per target
