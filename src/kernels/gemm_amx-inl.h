// Products on tiles of AMX: rows of A packed for them, and pieces of C. Included once per Highway
// target by the .cc files of src/kernels.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/amx-inl.h"
#include "kernels/gemm_epilogue-inl.h"
#include "kernels/gemm_kernels.h"
#include "kernels/micro_kernel-inl.h"
#include "kernels/quantize-inl.h"

#if defined(SIGLIP_KERNELS_GEMM_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SIGLIP_KERNELS_GEMM_AMX_INL_H_
#undef SIGLIP_KERNELS_GEMM_AMX_INL_H_
#else
#define SIGLIP_KERNELS_GEMM_AMX_INL_H_
#endif

#if SIGLIP_TARGET_HAS_AMX
HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {

// Two blocks for the 729 patches of so400m's picture. All of K of a block of A, a megabyte at most,
// stays in the second-level cache.
inline constexpr int kAmxBlockRows = 384;
inline constexpr std::int64_t kAmxBlockFloats = std::int64_t{1} << 18;
static_assert(kAmxBlockRows % kAmxTwoRows == 0);

// Rows past `rows` are left as they are: what they give is not read.
inline void PackTileAmx(const GemmCall& call, const PackedRows& block, std::int64_t first,
                        std::int64_t rows) {
  const std::int64_t k = call.w->k();
  HWY_ALIGN std::int16_t integers[2 * kGemmBlockSteps];
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* row = call.a + (block.first_row + first + r) * call.a_stride;
    const Quantizer quantizer =
        ChooseQuantizer(row, k, kInt16Limits.activation, 2 * kGemmBlockSteps);
    block.scales()[first + r] = quantizer.scale;
    for (std::int64_t step = 0; step < block.steps; step += kGemmBlockSteps) {
      const std::int64_t steps = std::min(kGemmBlockSteps, block.steps - step);
      const std::int64_t count = std::min(2 * steps, k - 2 * step);
      Quantize(row, 2 * step, count, quantizer, integers);
      std::fill(integers + count, integers + 2 * steps, std::int16_t{0});
      auto* to = reinterpret_cast<std::uint8_t*>(block.Tile(first, step, steps)) + r * kAmxRowBytes;
      for (std::int64_t pair = 0; pair < steps / kAmxSteps; ++pair) {
        SplitAmxRow(integers + pair * 2 * kAmxSteps, to + pair * kAmxPairBytes);
      }
    }
  }
}

// Calls pack(first, to) for the elements of K from `first` that are row `r` of a group of tiles at
// `to`, kElements of them or up to the end of K. To tiles from row `first_row` of the block.
template <std::int64_t kElements, class Pack>
HWY_INLINE void PackAmxRow(const GemmCall& call, const PackedRows& block, std::int64_t first_row,
                           std::int64_t r, Pack&& pack) {
  const std::int64_t block_steps = call.w->block_steps();
  std::int64_t element = 0;
  for (std::int64_t step = 0; step < block.steps; step += block_steps) {
    const std::int64_t steps = std::min(block_steps, block.steps - step);
    auto* to =
        reinterpret_cast<std::uint8_t*>(block.Tile(first_row, step, steps)) + r * kAmxRowBytes;
    for (std::int64_t i = 0; i < steps; i += kAmxTileSteps) {
      pack(element, to);
      element += kElements;
      to += kAmxPairBytes;
    }
  }
}

inline void PackTileAmxInt8(const GemmCall& call, const PackedRows& block, std::int64_t first,
                            std::int64_t rows) {
  QuantizerInt8 quantizers[kAmxTwoRows];
  ChooseQuantizersInt8(call, block, first, rows, quantizers);
  const std::int64_t k = call.w->k();
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* row = call.a + (block.first_row + first + r) * call.a_stride;
    PackAmxRow<kAmxRowBytes>(call, block, first, r, [&](std::int64_t i, std::uint8_t* to) HWY_ATTR {
      // What is past K meets weights of zero.
      QuantizeInt8(row, i, std::min<std::int64_t>(kAmxRowBytes, k - i), quantizers[r], to);
    });
  }
}

inline void PackTileAmxBf16(const GemmCall& call, const PackedRows& block, std::int64_t first,
                            std::int64_t rows) {
  const std::int64_t k = call.w->k();
  constexpr std::int64_t kElements = kAmxRowBytes / 2;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* row = call.a + (block.first_row + first + r) * call.a_stride;
    PackAmxRow<kElements>(call, block, first, r, [&](std::int64_t i, std::uint8_t* to) HWY_ATTR {
      auto* rounded = reinterpret_cast<std::uint16_t*>(to);
      const std::int64_t count = std::min(kElements, k - i);
      RoundToBfloat16(row + i, count, rounded);
      // Zero, since there might be a NaN, which times a weight of zero is none.
      std::fill(rounded + count, rounded + kElements, std::uint16_t{0});
    });
  }
}

// What the tiles of C are made of.
struct AmxInt16 {
  static constexpr GemmFormat kFormat = GemmFormat::kInt16;
  using Sums = AmxSums;
  static constexpr int kTile = kAmxRows;  // rows and columns
  static constexpr int kStepsOfPair = kAmxSteps;
  static constexpr std::int64_t kPartSteps = kGemmBlockSteps;
  static constexpr std::int64_t kSums = 2;
  template <class Meanwhile>
  static HWY_INLINE void Multiply(std::int64_t pairs, const void* a, const void* b,
                                  const void* /*next_a*/, AmxStart /*start*/, Sums& sums,
                                  Meanwhile&& meanwhile) {
    MultiplyAmxTiles(pairs, a, b, sums, meanwhile);
  }
};
template <AmxProducts kProducts>
struct AmxFour {
  static constexpr GemmFormat kFormat =
      kProducts == AmxProducts::kInt8 ? GemmFormat::kInt8 : GemmFormat::kBf16;
  using Sums = AmxFourSums;
  static constexpr int kTile = kAmxTwoRows;
  static constexpr int kStepsOfPair = kAmxTileSteps;
  // Of W and of A 18 kB each.
  static constexpr std::int64_t kPartSteps = 144;
  static constexpr std::int64_t kSums = kAmxBlockRows / kTile;
  template <class Meanwhile>
  static HWY_INLINE void Multiply(std::int64_t pairs, const void* a, const void* b,
                                  const void* next_a, AmxStart start, Sums& sums,
                                  Meanwhile&& meanwhile) {
    MultiplyFourAmxTiles<kProducts>(pairs, a, b, next_a, start, sums, meanwhile);
  }
};
using AmxInt8 = AmxFour<AmxProducts::kInt8>;
using AmxBf16 = AmxFour<AmxProducts::kBf16>;

// A panel and a part of a block of K in GemmPieceTarget on tiles. The part's share of A and of W
// stay in the first-level cache together.
template <class Number>
struct AmxPanel {
  std::int64_t step = 0;        // of the block of K
  std::int64_t steps = 0;       // of the block
  std::int64_t part = 0;        // counted from the block's first step
  std::int64_t part_steps = 0;  // of the part
  std::int64_t column = 0;
  std::int64_t columns = 0;               // that exist
  Prefetch next;                          // what of W comes after this
  typename Number::Sums* sums = nullptr;  // of the block of K [kSums]
  float* between = nullptr;               // sums of blocks of K [block rows][kTile]
};

// What a panel's columns need in the epilogue, past the last column too.
struct AmxColumns {
  HWY_ALIGN float bias[kAmxTwoRows];
  float scales[kAmxTwoRows];           // integers only
  std::int32_t products[kAmxTwoRows];  // kInt8: PackedMatrix::cross_products of the block of K
};

template <class Number>
void LoadAmxColumns(const GemmCall& call, const AmxPanel<Number>& panel, AmxColumns& columns) {
  // Adding -0 changes nothing.
  std::fill_n(columns.bias, kAmxTwoRows, -0.0f);
  if (call.bias != nullptr) std::copy_n(call.bias + panel.column, panel.columns, columns.bias);
  if constexpr (!std::is_same_v<Number, AmxBf16>) {
    std::copy_n(call.w->scales() + panel.column, panel.columns, columns.scales);
  }
  if constexpr (std::is_same_v<Number, AmxInt8>) {
    std::copy_n(call.w->cross_products(panel.step / kGemmBlockSteps) + panel.column, panel.columns,
                columns.products);
  }
}

// Columns [x, x + kLanes) of row `row` of a tile. zero: of the row, for kInt8.
template <class Number>
HWY_INLINE FloatVec AmxRowSum(const typename Number::Sums& sums, std::int64_t row, int x,
                              [[maybe_unused]] const AmxColumns& columns,
                              [[maybe_unused]] std::int32_t zero) {
  const FloatTag d;
  const IntTag di;
  if constexpr (std::is_same_v<Number, AmxInt16>) {
    return hn::ConvertTo(d, AmxSum(sums, row, x));
  } else {
    const auto sum = hn::Load(di, sums.sums + row * Number::kTile + x);
    if constexpr (std::is_same_v<Number, AmxBf16>) {
      return hn::BitCast(d, sum);
    } else {
      const auto products = hn::Load(di, columns.products + x);
      return hn::ConvertTo(d, hn::Add(sum, hn::Mul(hn::Set(di, zero), products)));
    }
  }
}

// Rows [row, row + count) of the block of rows, which are of one tile with these sums, become part
// of C, or of what is between blocks of K. kWhole: all columns of the panel exist.
template <class Number, bool kFirst, bool kLast, bool kGelu, bool kResidual, bool kWhole>
HWY_INLINE void FinishAmxRows(const GemmCall& call, const PackedRows& block,
                              const AmxPanel<Number>& panel, const AmxColumns& columns,
                              std::int64_t row, std::int64_t count,
                              const typename Number::Sums& sums) {
  const FloatTag d;
  constexpr int kTile = Number::kTile;
  float* between = panel.between + row * kTile;
  float* c = call.c + (block.first_row + row) * call.c_stride + panel.column;
  const float* row_scales = block.scales() + row;
  const std::int32_t* zeros = nullptr;
  if constexpr (std::is_same_v<Number, AmxInt8>) {
    zeros = block.cross_products(panel.step / kGemmBlockSteps) + row;
  }
  for (std::int64_t r = 0; r < count; ++r, between += kTile, c += call.c_stride) {
    const float* residual = nullptr;
    if constexpr (kResidual) {
      residual = ResidualRow(call, block.first_row + row + r) + panel.column;
    }
#pragma GCC unroll 4
    for (int x = 0; x < kTile; x += kLanes) {
      auto value =
          AmxRowSum<Number>(sums, row % kTile + r, x, columns, zeros == nullptr ? 0 : zeros[r]);
      if constexpr (!kFirst) value = hn::Add(hn::Load(d, between + x), value);
      if constexpr (!kLast) {
        hn::Store(value, d, between + x);
        continue;
      }
      const auto bias = hn::Load(d, columns.bias + x);
      if constexpr (std::is_same_v<Number, AmxBf16>) {
        value = hn::Add(value, bias);
      } else {
        value = ScaleAndBias(value, row_scales[r], hn::Load(d, columns.scales + x), bias);
      }
      if constexpr (kGelu) {
        FloatVec values[] = {value};
        Gelu<Number::kFormat>(values);
        value = values[0];
      }
      if constexpr (kWhole) {
        if constexpr (kResidual) value = hn::Add(hn::LoadU(d, residual + x), value);
        hn::StoreU(value, d, c + x);
      } else {
        const std::int64_t left = panel.columns - x;
        if constexpr (kResidual) value = hn::Add(LoadColumns(residual + x, left), value);
        StoreColumns(value, c + x, left);
      }
    }
  }
}

// All rows of the block by the panel. A tile's sums, when its block of K is done, are added to what
// is between blocks of K, or become part of C, while the next tile's are computed.
template <class Number, bool kFirst, bool kLast, bool kGelu, bool kResidual>
HWY_NOINLINE void MultiplyAmxPanel(const GemmCall& call, const PackedRows& block,
                                   const AmxPanel<Number>& panel) {
  constexpr int kTile = Number::kTile;
  const std::int64_t pairs = panel.part_steps / Number::kStepsOfPair;
  const std::int64_t rows_of_pair = (kTile + pairs - 1) / pairs;
  const AmxStart start = panel.part == 0 ? AmxStart::kZero : AmxStart::kSums;
  const bool done = panel.part + panel.part_steps == panel.steps;
  const float* b = call.w->Panel(panel.column, panel.step, panel.steps) + panel.part * kTile;
  const auto a = [&](std::int64_t row) {
    return block.Tile(row, panel.step, panel.steps) + panel.part * kTile;
  };
  // What comes next comes in while this is multiplied, so many bytes for each pair.
  const std::int64_t all_pairs = (block.rows + kTile - 1) / kTile * pairs;
  const std::int64_t lines = (panel.next.end - panel.next.from) / kCacheLine;
  const std::int64_t bytes = (lines + all_pairs - 1) / all_pairs * kCacheLine;
  const char* prefetch = panel.next.from;
  const auto sums = [&](std::int64_t row) ->
      typename Number::Sums& { return panel.sums[row / kTile % Number::kSums]; };
  AmxColumns columns;
  if (done) LoadAmxColumns(call, panel, columns);
  const auto finish = [&](std::int64_t from, std::int64_t until, const typename Number::Sums& of)
                          HWY_ATTR {
                            if (panel.columns == kTile) {
                              FinishAmxRows<Number, kFirst, kLast, kGelu, kResidual, true>(
                                  call, block, panel, columns, from, until - from, of);
                            } else {
                              FinishAmxRows<Number, kFirst, kLast, kGelu, kResidual, false>(
                                  call, block, panel, columns, from, until - from, of);
                            }
                          };
  std::int64_t finished = 0;
  for (std::int64_t row = 0; row < block.rows; row += kTile) {
    if (kLast && done) {  // what FinishAmxRows will touch
      const std::int64_t rows = std::min<std::int64_t>(kTile, block.rows - row);
      const std::int64_t c_row = block.first_row + row;
      for (std::int64_t r = 0; r < rows; ++r) {
        __builtin_prefetch(call.c + (c_row + r) * call.c_stride + panel.column, 1);
      }
      PrefetchResidual(call, c_row, rows, panel.column, panel.columns);
    }
    const auto& previous = sums(row - kTile + kTile * Number::kSums);
    Number::Multiply(pairs, a(row), b, a(row + kTile < block.rows ? row + kTile : 0), start,
                     sums(row), [&]() HWY_ATTR {
                       const char* until = std::min(panel.next.end, prefetch + bytes);
                       for (; prefetch < until; prefetch += kCacheLine) {
                         __builtin_prefetch(prefetch, 0, 2);
                       }
                       if (!done) return;
                       const std::int64_t end = std::min(row, finished + rows_of_pair);
                       if (finished == end) return;
                       finish(finished, end, previous);
                       finished = end;
                     });
  }
  if (!done) return;
  finish(finished, block.rows, sums(finished));
}

template <class Number>
using AmxPanelFunction = void (*)(const GemmCall&, const PackedRows&, const AmxPanel<Number>&);

template <class Number, bool kFirst>
AmxPanelFunction<Number> AmxPanelOf(const GemmCall& call, bool last) {
  if (!last) return MultiplyAmxPanel<Number, kFirst, false, false, false>;
  if (call.gelu) {
    return call.residual != nullptr ? MultiplyAmxPanel<Number, kFirst, true, true, true>
                                    : MultiplyAmxPanel<Number, kFirst, true, true, false>;
  }
  return call.residual != nullptr ? MultiplyAmxPanel<Number, kFirst, true, false, true>
                                  : MultiplyAmxPanel<Number, kFirst, true, false, false>;
}

// GemmPieceTarget on tiles. All of K for a panel before the next one, so that the sums between
// blocks of K stay in a cache.
template <class Number>
void GemmPieceAmx(const GemmCall& call, const PackedRows& block, std::int64_t column_begin,
                  std::int64_t column_end) {
  const AmxTiles tiles;
  constexpr int kTile = Number::kTile;
  HWY_ALIGN float between[kAmxBlockRows * kTile];
  typename Number::Sums sums[Number::kSums];
  const PackedMatrix& w = *call.w;
  AmxPanel<Number> panel;
  panel.sums = sums;
  panel.between = between;
  // Where the part of W that `panel` names is.
  const auto memory = [&](const AmxPanel<Number>& of) {
    const auto* from =
        reinterpret_cast<const char*>(w.Panel(of.column, of.step, of.steps) + of.part * kTile);
    return Prefetch{from, from + of.part_steps * kTile * static_cast<std::int64_t>(sizeof(float))};
  };
  // The first part of the block of K at `step`.
  const auto start_block = [&](AmxPanel<Number>& of, std::int64_t step) {
    of.step = step;
    of.steps = std::min(w.block_steps(), w.steps() - step);
    of.part = 0;
    of.part_steps = std::min(Number::kPartSteps, of.steps);
  };
  const auto start_column = [&](AmxPanel<Number>& of, std::int64_t column) {
    of.column = column;
    of.columns = std::min<std::int64_t>(kTile, w.n() - column);
    start_block(of, 0);
  };
  // False after the last part of the last column.
  const auto advance = [&](AmxPanel<Number>& of) {
    if (of.part + of.part_steps < of.steps) {
      of.part += of.part_steps;
      of.part_steps = std::min(Number::kPartSteps, of.steps - of.part);
    } else if (of.step + of.steps < w.steps()) {
      start_block(of, of.step + of.steps);
    } else {
      start_column(of, of.column + kTile);
    }
    return of.column < column_end;
  };
  start_column(panel, column_begin);
  for (bool more = true; more;) {
    AmxPanel<Number> next = panel;
    more = advance(next);
    panel.next = more ? memory(next) : Prefetch();
    const bool last = panel.step + panel.steps == w.steps();
    (panel.step == 0 ? AmxPanelOf<Number, true> : AmxPanelOf<Number, false>)(call, last)(
        call, block, panel);
    panel = next;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();
#endif  // SIGLIP_TARGET_HAS_AMX

#endif  // include guard per target
