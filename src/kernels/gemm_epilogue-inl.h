// What happens to a tile of C when its sums are there, and what is asked of the memory meanwhile.
// Included once per Highway target by the .cc files of src/kernels.

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>

#include "hwy/highway.h"
#include "kernels/gemm_kernels.h"
#include "kernels/micro_kernel-inl.h"

#if defined(SIGLIP_KERNELS_GEMM_EPILOGUE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SIGLIP_KERNELS_GEMM_EPILOGUE_INL_H_
#undef SIGLIP_KERNELS_GEMM_EPILOGUE_INL_H_
#else
#define SIGLIP_KERNELS_GEMM_EPILOGUE_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {

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

inline const float* ResidualRow(const GemmCall& call, std::int64_t row) {
  const std::int64_t from = call.residual_period == 0 ? row : row % call.residual_period;
  return call.residual + from * call.residual_stride;
}

// Asks for a tile's part of the residual, to be there when the tile's sums are.
inline void PrefetchResidual(const GemmCall& call, std::int64_t row, std::int64_t rows,
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
inline void CopyColumns(const float* from, std::int64_t from_stride, std::int64_t rows,
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

// What comes after the panels of `width` columns at `column`: the next panels, and these panels'
// share of the next block of K of A.
inline PrefetchQueue AfterPanels(const GemmCall& call, const PackedRows& block, std::int64_t step,
                                 std::int64_t width, std::int64_t column, std::int64_t column_begin,
                                 std::int64_t column_end) {
  const PackedMatrix& w = *call.w;
  const std::int64_t steps = std::min(w.block_steps(), w.steps() - step);
  const std::int64_t next = std::min(w.block_steps(), w.steps() - step - steps);
  std::span<const float> b;
  std::span<const float> a;
  const auto panels_at = [&](std::int64_t from, std::int64_t first, std::int64_t of) {
    return std::span<const float>(
        w.Panel(from, first, of),
        static_cast<std::size_t>(std::min(width, w.padded_n() - from) * of));
  };
  if (column + width < column_end) {
    b = panels_at(column + width, step, steps);
  } else if (next > 0) {
    b = panels_at(column_begin, step + steps, next);
  }
  if (next > 0) {
    const std::int64_t panels = (column_end - column_begin + width - 1) / width;
    const std::int64_t panel = (column - column_begin) / width;
    const std::int64_t floats = block.strassen
                                    ? block.half_rows() * kStrassenProducts * StrassenHalf(next)
                                    : block.padded_rows * next;
    const std::int64_t from = floats * panel / panels;
    const float* first =
        block.strassen ? block.LeftFactors(0, 0, step + steps) : block.Tile(0, step + steps, next);
    a = {first + from, static_cast<std::size_t>(floats * (panel + 1) / panels - from)};
  }
  return {b, a};
}

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
