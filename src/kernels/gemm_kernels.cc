#include "kernels/gemm_kernels.h"

#include <algorithm>
#include <cstdint>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemm_kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "kernels/micro_kernel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {

static_assert(kGemmBlockRows % kTileRows == 0);

// One register tile and what happens to it.
struct TileCall {
  std::int64_t k = 0;
  const float* a = nullptr;  // [k][kTileRows]
  const float* b = nullptr;  // [k][kTileColumns], narrower in the last panel
  std::int64_t b_stride = 0;
  float* c = nullptr;
  std::int64_t c_stride = 0;
  std::int64_t columns = 0;  // that exist, of the tile's
  bool first = false;        // block of K: nothing in c yet
  bool last = false;         // block of K: the epilogue runs
  bool gelu = false;
  const float* bias = nullptr;                 // of the tile's first column
  const float* residual_rows[kTileRows] = {};  // likewise; null: no residual
};

template <int kRows, int kVectors>
HWY_NOINLINE void RunTile(const TileCall& call) {
  FloatVec acc[kRows][kVectors];
  MultiplyTile<kRows, kVectors>(call.k, call.a, kTileRows, call.b, call.b_stride, acc);
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    const std::int64_t column = v * kLanes;
    const std::int64_t count = call.columns - column;
    const FloatTag d;
    const auto bias =
        call.last && call.bias != nullptr ? LoadColumns(call.bias + column, count) : hn::Zero(d);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      float* c = call.c + r * call.c_stride + column;
      auto value = acc[r][v];
      if (!call.first) value = hn::Add(LoadColumns(c, count), value);
      if (call.last) {
        if (call.bias != nullptr) value = hn::Add(value, bias);
        if (call.gelu) value = GeluTanh(value);
        const float* residual = call.residual_rows[r];
        if (residual != nullptr) value = hn::Add(LoadColumns(residual + column, count), value);
      }
      StoreColumns(value, c, count);
    }
  }
}

using TileFunction = void (*)(const TileCall&);

template <int kVectors>
HWY_INLINE void RunTileOfRows(std::int64_t rows, const TileCall& call) {
  static constexpr TileFunction kByRows[] = {
    RunTile<1, kVectors>,
    RunTile<2, kVectors>,
    RunTile<3, kVectors>,
    RunTile<4, kVectors>,
    RunTile<5, kVectors>,
    RunTile<6, kVectors>,
#if HWY_TARGET <= HWY_AVX3
    RunTile<7, kVectors>,
    RunTile<8, kVectors>,
    RunTile<9, kVectors>,
    RunTile<10, kVectors>,
    RunTile<11, kVectors>,
    RunTile<12, kVectors>,
#endif
  };
  kByRows[rows - 1](call);
}

// Columns [k_first, k_first + k) of one row of patches.
void GatherPatch(const PatchRows& patches, std::int64_t row, std::int64_t k_first, std::int64_t k,
                 float* to) {
  const std::int64_t per_image = patches.per_side * patches.per_side;
  const std::int64_t p = patches.patch;
  const float* image = patches.images[row / per_image];
  const std::int64_t y = row % per_image / patches.per_side * p;
  const std::int64_t x = row % patches.per_side * p;
  for (std::int64_t i = 0; i < k;) {
    const std::int64_t column = k_first + i;  // = (channel * p + dy) * p + dx
    const std::int64_t channel = column / (p * p);
    const std::int64_t dy = column / p % p;
    const std::int64_t dx = column % p;
    const std::int64_t run = std::min(p - dx, k - i);
    const float* from =
        image + (channel * patches.image_size + y + dy) * patches.image_size + x + dx;
    std::copy(from, from + run, to + i);
    i += run;
  }
}

void PackTileRows(const GemmCall& call, std::int64_t row, std::int64_t rows, std::int64_t k_first,
                  std::int64_t k, float* to) {
  const float* from[kTileRows];
  float gathered[kTileRows * kGemmBlockK];
  for (std::int64_t r = 0; r < rows; ++r) {
    if (call.patches != nullptr) {
      GatherPatch(*call.patches, row + r, k_first, k, gathered + r * kGemmBlockK);
      from[r] = gathered + r * kGemmBlockK;
    } else {
      from[r] = call.a + (row + r) * call.a_stride + k_first;
    }
  }
  PackRows(from, rows, k, to);
}

void GemmBlockTarget(const GemmCall& call, std::int64_t row_begin, std::int64_t row_end,
                     std::int64_t column_begin, std::int64_t column_end, float* scratch) {
  const PackedMatrix& w = *call.w;
  TileCall tile;
  tile.c_stride = call.c_stride;
  tile.gelu = call.gelu;
  for (std::int64_t k_first = 0; k_first < w.k(); k_first += kGemmBlockK) {
    const std::int64_t k = std::min(kGemmBlockK, w.k() - k_first);
    for (std::int64_t row = row_begin; row < row_end; row += kTileRows) {
      PackTileRows(call, row, std::min<std::int64_t>(kTileRows, row_end - row), k_first, k,
                   scratch + (row - row_begin) * kGemmBlockK);
    }
    tile.k = k;
    tile.first = k_first == 0;
    tile.last = k_first + k == w.k();
    for (std::int64_t column = column_begin; column < column_end; column += kTileColumns) {
      tile.b = w.Panel(column, k_first, k);
      tile.b_stride = std::min<std::int64_t>(kTileColumns, w.padded_n() - column);
      tile.columns = std::min(tile.b_stride, w.n() - column);
      tile.bias = call.bias == nullptr ? nullptr : call.bias + column;
      for (std::int64_t row = row_begin; row < row_end; row += kTileRows) {
        const std::int64_t rows = std::min<std::int64_t>(kTileRows, row_end - row);
        tile.a = scratch + (row - row_begin) * kGemmBlockK;
        tile.c = call.c + row * call.c_stride + column;
        if (tile.last && call.residual != nullptr) {
          for (std::int64_t r = 0; r < rows; ++r) {
            const std::int64_t from =
                call.residual_period == 0 ? row + r : (row + r) % call.residual_period;
            tile.residual_rows[r] = call.residual + from * call.residual_stride + column;
          }
        }
        if (tile.b_stride > kLanes) {
          RunTileOfRows<2>(rows, tile);
        } else {
          RunTileOfRows<1>(rows, tile);
        }
      }
    }
  }
}

TileShape TileShapeTarget() { return {kTileRows, kTileColumns, kLanes}; }
const char* NameTarget() {
  if (HWY_TARGET <= HWY_AVX3) return "AVX-512";
  return hwy::TargetName(HWY_TARGET);
}

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace siglip {
HWY_EXPORT(GemmBlockTarget);
HWY_EXPORT(TileShapeTarget);
HWY_EXPORT(NameTarget);

void GemmBlock(const GemmCall& call, std::int64_t row_begin, std::int64_t row_end,
               std::int64_t column_begin, std::int64_t column_end, float* scratch) {
  HWY_DYNAMIC_DISPATCH(GemmBlockTarget)
  (call, row_begin, row_end, column_begin, column_end, scratch);
}
TileShape GemmTileShape() { return HWY_DYNAMIC_DISPATCH(TileShapeTarget)(); }
const char* KernelTargetName() { return HWY_DYNAMIC_DISPATCH(NameTarget)(); }

}  // namespace siglip
#endif  // HWY_ONCE
