#include "kernels/gemm_kernels.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>

#include "kernels/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemm_kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "kernels/amx-inl.h"
#include "kernels/micro_kernel-inl.h"
#include "kernels/quantize-inl.h"

HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {

// Rows of A that a piece of work multiplies.
inline constexpr int kBlockRows = 252;
static_assert(kBlockRows % kTileRows == 0 && kBlockRows % kWinogradTileRows == 0);
// Two blocks for the 729 patches of so400m's picture. All of K of a block of A, a megabyte at most,
// stays in the second-level cache.
inline constexpr int kAmxBlockRows = 384;
inline constexpr std::int64_t kAmxBlockFloats = std::int64_t{1} << 18;
static_assert(kAmxBlockRows % kAmxTwoRows == 0);

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
  const Quantizer quantizer = ChooseQuantizer(row, k, to.max_integer);
  *to.scale = quantizer.scale;
  Quantize(row, 0, k, quantizer, to.integers);
  const std::int64_t steps = (k + 1) / 2;
  for (std::int64_t block = 0; block < IntegerBlocks(steps); ++block) {
    const std::int64_t step = block * kGemmBlockSteps;
    to.cross_products[block * to.stride] =
        NegatedCrossProducts(to.integers + 2 * step, std::min(kGemmBlockSteps, steps - step));
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
  for (std::int64_t r = 0; r < rows; ++r) {
    quantizers[r] = ChooseQuantizer(row + r * call.a_stride, k, kMaxActivation);
    block.scales()[first + r] = quantizers[r].scale;
  }
  for (std::int64_t step = 0; step < block.steps; step += kGemmBlockSteps) {
    const std::int64_t steps = std::min(kGemmBlockSteps, block.steps - step);
    QuantizeAndPack<kStride, kStride>(
        row, call.a_stride, rows, 2 * step, std::min(2 * steps, k - 2 * step), quantizers,
        block.Tile(first, step, steps), block.cross_products(step / kGemmBlockSteps) + first);
  }
}

#if SIGLIP_TARGET_HAS_INT8
// `count` rows of the block from `first`.
HWY_INLINE void ChooseQuantizersInt8(const GemmCall& call, const PackedRows& block,
                                     std::int64_t first, std::int64_t count,
                                     QuantizerInt8* quantizers) {
  const float* row = call.a + (block.first_row + first) * call.a_stride;
  for (std::int64_t r = 0; r < count; ++r, row += call.a_stride) {
    quantizers[r] = ChooseQuantizerInt8(row, call.w->k());
    block.scales()[first + r] = quantizers[r].scale;
    for (std::int64_t i = 0; i < IntegerBlocks(block.steps); ++i) {
      block.cross_products(i)[first + r] = quantizers[r].zero;
    }
  }
}

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

TileShape TileShapeTarget(GemmFormat format) {
#if SIGLIP_TARGET_HAS_AMX
  if (format != GemmFormat::kFp32 && KernelUsesAmx()) {
    const bool int16 = format == GemmFormat::kInt16;
    const int rows = int16 ? kAmxRows : kAmxTwoRows;
    return {.rows = rows,
            .columns = rows,
            .lanes = rows,
            .steps = int16 ? kAmxSteps : kAmxTileSteps,
            .block_rows = kAmxBlockRows,
            .block_floats = kAmxBlockFloats};
  }
#endif
  const bool winograd = format == GemmFormat::kInt16 && !KernelUsesVnni();
  return {.rows = winograd ? kWinogradTileRows : kTileRows,
          .columns = kTileColumns,
          .lanes = kLanes,
          .steps = 1,
          .block_rows = kBlockRows,
          .block_floats = 0};
}

#if SIGLIP_TARGET_HAS_AMX
// Rows past `rows` are left as they are: what they give is not read.
void PackTileAmx(const GemmCall& call, const PackedRows& block, std::int64_t first,
                 std::int64_t rows) {
  const std::int64_t k = call.w->k();
  HWY_ALIGN std::int16_t integers[2 * kGemmBlockSteps];
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* row = call.a + (block.first_row + first + r) * call.a_stride;
    const Quantizer quantizer = ChooseQuantizer(row, k, kMaxActivation);
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

void PackTileAmxInt8(const GemmCall& call, const PackedRows& block, std::int64_t first,
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

void PackTileAmxBf16(const GemmCall& call, const PackedRows& block, std::int64_t first,
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
#endif

void PackTileTarget(const GemmCall& call, const PackedRows& block, std::int64_t tile) {
  const GemmFormat format = call.w->format();
  const std::int64_t height = TileShapeTarget(format).rows;
  const std::int64_t first = tile * height;
  const std::int64_t rows = std::min(height, block.rows - first);
  auto pack = PackTileFp32;
  if (format == GemmFormat::kInt16) {
    pack = height == kTileRows ? PackTileInt16<kTileRows> : PackTileInt16<kWinogradTileRows>;
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

// A tile of C, whole vectors, that its last block of K has been added to.
struct FinishedTile {
  std::int64_t row = 0;
  std::int64_t column = 0;
  std::int64_t rows = 0;
  std::int64_t columns = 0;  // that exist
  float* c = nullptr;
  std::int64_t c_stride = 0;
  const float* row_scales = nullptr;  // [rows], integers only
};

const float* ResidualRow(const GemmCall& call, std::int64_t row) {
  const std::int64_t from = call.residual_period == 0 ? row : row % call.residual_period;
  return call.residual + from * call.residual_stride;
}

// Asks for a tile's part of the residual, to be there when the tile's sums are.
void PrefetchResidual(const GemmCall& call, std::int64_t row, std::int64_t rows,
                      std::int64_t column, std::int64_t columns) {
  if (call.residual == nullptr) return;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* from = ResidualRow(call, row + r) + column;
    __builtin_prefetch(from);
    __builtin_prefetch(from + columns - 1);
  }
}

// A sum of integers as a float, and the bias. The addition is fused by name, so that the bits are
// the same wherever it is inlined.
HWY_INLINE FloatVec ScaleAndBias(FloatVec sum, float row_scale, FloatVec column_scales,
                                 FloatVec bias) {
  return hn::MulAdd(hn::Mul(sum, hn::Set(FloatTag(), row_scale)), column_scales, bias);
}

// Of a layer of this format.
template <GemmFormat kFormat, int kCount>
HWY_INLINE void Gelu(FloatVec (&values)[kCount]) {
  constexpr bool k8Bits = kFormat == GemmFormat::kInt8 || kFormat == GemmFormat::kBf16;
  GeluTanh<k8Bits ? PowerError::k8Bits : PowerError::kFloat>(values);
}

// kRows rows from `row` and kVectors vectors from column `x` of a tile.
template <GemmFormat kFormat, bool kGelu, bool kResidual, int kRows, int kVectors>
HWY_INLINE void FinishVectors(const GemmCall& call, const FinishedTile& tile, std::int64_t row,
                              std::int64_t x) {
  constexpr bool kInteger = kFormat != GemmFormat::kFp32;
  const FloatTag d;
  FloatVec values[kRows * kVectors];
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    const std::int64_t column = tile.column + x + v * kLanes;
    const std::int64_t count = tile.columns - x - v * kLanes;
    FloatVec column_scales = hn::Zero(d);
    if constexpr (kInteger) column_scales = hn::LoadU(d, call.w->scales() + column);
    FloatVec bias = hn::Set(d, -0.0f);  // adding -0 changes nothing
    if (call.bias != nullptr) bias = LoadColumns(call.bias + column, count);
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) {
      const auto sum = hn::LoadU(d, tile.c + (row + r) * tile.c_stride + x + v * kLanes);
      if constexpr (kInteger) {
        values[r * kVectors + v] = ScaleAndBias(sum, tile.row_scales[row + r], column_scales, bias);
      } else {
        values[r * kVectors + v] = hn::Add(sum, bias);
      }
    }
  }
  if constexpr (kGelu) Gelu<kFormat>(values);
#pragma GCC unroll 2
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      auto value = values[r * kVectors + v];
      const std::int64_t from = x + v * kLanes;
      if constexpr (kResidual) {
        const float* residual = ResidualRow(call, tile.row + row + r) + tile.column + from;
        value = hn::Add(LoadColumns(residual, tile.columns - from), value);
      }
      hn::StoreU(value, d, tile.c + (row + r) * tile.c_stride + from);
    }
  }
}

template <GemmFormat kFormat, bool kGelu, bool kResidual>
HWY_NOINLINE void RunEpilogueOf(const GemmCall& call, const FinishedTile& tile) {
  static_assert(kTileVectors == 2);
  std::int64_t row = 0;
  if (tile.columns > kLanes) {
    for (; row + 2 <= tile.rows; row += 2) {
      FinishVectors<kFormat, kGelu, kResidual, 2, 2>(call, tile, row, 0);
    }
  }
  for (; row < tile.rows; ++row) {
    for (std::int64_t x = 0; x < tile.columns; x += kLanes) {
      FinishVectors<kFormat, kGelu, kResidual, 1, 1>(call, tile, row, x);
    }
  }
}

template <GemmFormat kFormat>
void RunEpilogue(const GemmCall& call, const FinishedTile& tile) {
  const bool residual = call.residual != nullptr;
  if (call.gelu) {
    (residual ? RunEpilogueOf<kFormat, true, true> : RunEpilogueOf<kFormat, true, false>)(call,
                                                                                          tile);
  } else {
    (residual ? RunEpilogueOf<kFormat, false, true> : RunEpilogueOf<kFormat, false, false>)(call,
                                                                                            tile);
  }
}

// The part of a tile of C that exists, to or from memory where whole vectors may be written.
void CopyColumns(const float* from, std::int64_t from_stride, std::int64_t rows,
                 std::int64_t columns, float* to, std::int64_t to_stride) {
  for (std::int64_t r = 0; r < rows; ++r) {
    std::copy(from + r * from_stride, from + r * from_stride + columns, to + r * to_stride);
  }
}

// Memory that later tiles will read, handed out in slices that a tile's steps can ask for.
class PrefetchQueue {
 public:
  // The second part comes when the first is done.
  PrefetchQueue(std::span<const float> first, std::span<const float> second)
      : now_(Bytes(first)), later_(Bytes(second)) {}

  Prefetch Next(std::int64_t steps) {
    if (now_.from >= now_.end) now_ = std::exchange(later_, Prefetch());
    const Prefetch slice = {now_.from,
                            now_.from + std::min(now_.end - now_.from, steps / 4 * kCacheLine)};
    now_.from = slice.end;
    return slice;
  }

 private:
  static Prefetch Bytes(std::span<const float> floats) {
    const char* from = reinterpret_cast<const char*>(floats.data());
    return {from, from + floats.size_bytes()};
  }

  Prefetch now_;
  Prefetch later_;
};

// What comes after the panel at `column`: the next panel, and this panel's share of the next block
// of K of A.
PrefetchQueue AfterPanel(const GemmCall& call, const PackedRows& block, std::int64_t step,
                         std::int64_t column, std::int64_t column_begin, std::int64_t column_end) {
  const PackedMatrix& w = *call.w;
  const std::int64_t steps = std::min(w.block_steps(), w.steps() - step);
  const std::int64_t next = std::min(w.block_steps(), w.steps() - step - steps);
  std::span<const float> b;
  std::span<const float> a;
  if (column + kTileColumns < column_end) {
    b = {w.Panel(column + kTileColumns, step, steps),
         static_cast<std::size_t>(kTileColumns * steps)};
  } else if (next > 0) {
    b = {w.Panel(column_begin, step + steps, next), static_cast<std::size_t>(kTileColumns * next)};
  }
  if (next > 0) {
    const std::int64_t panels = (column_end - column_begin + kTileColumns - 1) / kTileColumns;
    const std::int64_t panel = (column - column_begin) / kTileColumns;
    const std::int64_t floats = block.padded_rows * next;
    const std::int64_t from = floats * panel / panels;
    a = {block.Tile(0, step + steps, next) + from,
         static_cast<std::size_t>(floats * (panel + 1) / panels - from)};
  }
  return {b, a};
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
    const std::int64_t k_block = step / kGemmBlockSteps;
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

#if SIGLIP_TARGET_HAS_AMX
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
#endif

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
               AfterPanel(call, block, step, column, column_begin, column_end));
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
TileShape GemmTileShape(GemmFormat format) { return HWY_DYNAMIC_DISPATCH(TileShapeTarget)(format); }

}  // namespace siglip
#endif  // HWY_ONCE
