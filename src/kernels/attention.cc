#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/parallel.h"
#include "kernels/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "kernels/amx-inl.h"
#include "kernels/micro_kernel-inl.h"
#include "kernels/quantize-inl.h"

#ifndef SIGLIP_KERNELS_ATTENTION_ONCE_
#define SIGLIP_KERNELS_ATTENTION_ONCE_
namespace siglip {

// Every target's tile has at most so many rows, columns and lanes; scratch is sized by them.
inline constexpr std::int64_t kMaxTileRows = 32;
inline constexpr std::int64_t kMaxTileColumns = 32;
inline constexpr std::int64_t kMaxLanes = 16;

// Weighted sums run over blocks of so many tokens, each from zero, as those of Gemm do: the
// rounding of one sum over 729 tokens is a third larger.
inline constexpr std::int64_t kBlockTokens = 256;

// One worker's memory. A multiple of 16 floats each.
struct AttentionScratch {
  float* keys = nullptr;  // [ceil(tokens / tile rows)][steps][tile rows]
  // kInt16 only, each [tokens, rounded up to tile rows].
  float* key_scales = nullptr;
  std::int32_t* key_products = nullptr;  // see CrossProducts
  float* values = nullptr;               // panels of columns: [tokens][value columns]
  float* queries = nullptr;              // [steps][tile columns]
  float* scores = nullptr;               // [tokens, rounded up to tile rows][tile columns]
};

// Where one item is.
struct AttentionItem {
  std::int64_t first_row = 0;
  std::int64_t tokens = 0;
  std::int64_t query_begin = 0;
  std::int64_t query_count = 0;
  std::int64_t first_answer = 0;  // row of `out`
};

// On AMX, queries and tokens come in twos of tiles, and the columns of the values in up to five:
// their sums, two tiles of weights and one of values are the eight that there are.
inline constexpr std::int64_t kAmxQueries = 32;
inline constexpr std::int64_t kAmxTokens = 32;
inline constexpr std::int64_t kAmxValueTiles = 5;
static_assert(kAmxQueries <= kMaxTileColumns);

inline std::int64_t RoundUp(std::int64_t a, std::int64_t b) { return (a + b - 1) / b * b; }

}  // namespace siglip
#endif

HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {

static_assert(kTileRows <= kMaxTileRows && kTileColumns <= kMaxTileColumns && kLanes <= kMaxLanes);

// The tile of the weighted sums: as many accumulators as the other, but its rows divide a tile of
// queries, and its columns heads 72 wide.
inline constexpr int kValueRows = SIGLIP_TILE_OF_12_ROWS ? 8 : 4;
inline constexpr int kValueVectors = 3;
inline constexpr int kValueColumns = kValueVectors * kLanes;

void PackKeys(const float* k, std::int64_t tokens, std::int64_t stride, std::int64_t head_dim,
              float* to) {
  for (std::int64_t token = 0; token < tokens; token += kTileRows, to += head_dim * kTileRows) {
    const std::int64_t rows = std::min<std::int64_t>(kTileRows, tokens - token);
    const float* from[kTileRows];
    for (std::int64_t r = 0; r < rows; ++r) from[r] = k + (token + r) * stride;
    if (rows < kTileRows) std::fill(to, to + head_dim * kTileRows, 0.0f);
    PackRows<kTileRows>(from, rows, head_dim, to);
  }
}

void PackValues(const float* v, std::int64_t tokens, std::int64_t stride, std::int64_t head_dim,
                float* to) {
  for (std::int64_t column = 0; column < head_dim; column += kValueColumns) {
    const std::int64_t width =
        std::min<std::int64_t>(kValueColumns, RoundUp(head_dim - column, kLanes));
    const FloatTag d;
    for (std::int64_t token = 0; token < tokens; ++token, to += width) {
      for (std::int64_t x = 0; x < width; x += kLanes) {
        hn::StoreU(LoadColumns(v + token * stride + column + x, head_dim - column - x), d, to + x);
      }
    }
  }
}

// `count` <= kRows rows of a factor of Q K^T as integers -> [steps][kStride] at `to`, scales
// [kRows] and cross products [kRows]; zeros for rows past `count`.
template <int kRows, int kStride>
void QuantizeRows(const float* rows, std::int64_t row_stride, std::int64_t count,
                  std::int64_t head_dim, float* to, float* scales, std::int32_t* cross_products) {
  const std::int64_t steps = (head_dim + 1) / 2;
  Quantizer quantizers[kRows];
  for (std::int64_t r = 0; r < count; ++r) {
    quantizers[r] =
        ChooseQuantizer(rows + r * row_stride, head_dim, kMaxAttentionFactor, 2 * kGemmBlockSteps);
  }
  for (int r = 0; r < kRows; ++r) scales[r] = quantizers[r].scale;
  if (count < kRows) {
    for (std::int64_t x = 0; x < steps; ++x) std::fill_n(to + x * kStride, kRows, 0.0f);
    std::fill_n(cross_products, kRows, 0);
  }
  QuantizeAndPack<kRows, kStride>(rows, row_stride, count, 0, head_dim, quantizers, to,
                                  cross_products);
}

template <int kRows>
void PackKeysInt16(const float* k, std::int64_t tokens, std::int64_t stride, std::int64_t head_dim,
                   const AttentionScratch& scratch) {
  const std::int64_t steps = (head_dim + 1) / 2;
  for (std::int64_t token = 0; token < tokens; token += kRows) {
    QuantizeRows<kRows, kRows>(
        k + token * stride, stride, std::min<std::int64_t>(kRows, tokens - token), head_dim,
        scratch.keys + token * steps, scratch.key_scales + token, scratch.key_products + token);
  }
}

// Queries as columns of a tile, zeros past `count`; scales: what a score is to be multiplied by.
void PackQueries(const AttentionCall& call, const float* q, std::int64_t count, float* to,
                 float* scales) {
  const float scale = 1 / std::sqrt(static_cast<float>(call.head_dim));
  if (count < kTileColumns) std::fill(to, to + call.head_dim * kTileColumns, 0.0f);
  std::fill(scales, scales + kTileColumns, scale);
  for (std::int64_t i = 0; i < count; ++i, q += call.row_stride) {
    for (std::int64_t x = 0; x < call.head_dim; ++x) to[x * kTileColumns + i] = q[x];
  }
}

void PackQueriesInt16(const AttentionCall& call, const float* q, std::int64_t count, float* to,
                      float* scales, std::int32_t* cross_products) {
  const float scale = 1 / std::sqrt(static_cast<float>(call.head_dim));
  static_assert(kTileColumns % 4 == 0 || kTileColumns < 4);
  constexpr int kRows = std::min(kTileColumns, 4);
  for (std::int64_t i = 0; i < kTileColumns; i += kRows) {
    QuantizeRows<kRows, kTileColumns>(q + i * call.row_stride, call.row_stride,
                                      std::clamp<std::int64_t>(count - i, 0, kRows), call.head_dim,
                                      to + i, scales + i, cross_products + i);
  }
  for (int i = 0; i < kTileColumns; ++i) scales[i] *= scale;
}

// scores[token][query], so that a query's softmax runs down a lane and PV can read rows of scores.
void Scores(const AttentionScratch& scratch, std::int64_t tokens, std::int64_t head_dim) {
  const float* keys = scratch.keys;
  float* to = scratch.scores;
  for (std::int64_t token = 0; token < tokens; token += kTileRows) {
    MultiplyTileTo<kTileRows, kTileVectors, kTileRows, kTileColumns>(head_dim, keys,
                                                                     scratch.queries, to);
    keys += head_dim * kTileRows;
    to += kTileRows * kTileColumns;
  }
}

// Number: Int16PairWinograd or Int16PairVnni.
template <class Number, int kRows>
void ScoresInt16(const AttentionScratch& scratch, std::int64_t tokens, std::int64_t steps,
                 const std::int32_t* query_products) {
  const float* keys = scratch.keys;
  float* to = scratch.scores;
  for (std::int64_t token = 0; token < tokens; token += kRows) {
    FloatVec acc[kRows][kTileVectors];
    MultiplyTile<Number, kRows, kTileVectors, kRows, kTileColumns>(
        steps, keys, scratch.queries, acc, {},
        {.rows = scratch.key_products + token, .columns = query_products});
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const auto scale = hn::Set(FloatTag(), scratch.key_scales[token + r]);
#pragma GCC unroll 2
      for (int v = 0; v < kTileVectors; ++v) {
        hn::Store(hn::Mul(acc[r][v], scale), FloatTag(), to + r * kTileColumns + v * kLanes);
      }
    }
    keys += steps * kRows;
    to += kRows * kTileColumns;
  }
}

// e^(scale (score - max)) in place; 1 / sum of each query. Four sums per lane, token mod 4.
void Softmax(float* scores, std::int64_t tokens, const float* scales, float* inverse_sums) {
  const FloatTag d;
  for (int v = 0; v < kTileVectors; ++v) {
    float* column = scores + v * kLanes;
    const auto at = [&](std::int64_t token) { return column + token * kTileColumns; };
    const auto scale = hn::Mul(hn::Load(d, scales + v * kLanes), hn::Set(d, kLog2E));
    const auto first = hn::Load(d, column);
    FloatVec maxima[4] = {first, first, first, first};
    std::int64_t t = 0;
    for (; t + 4 <= tokens; t += 4) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) maxima[i] = hn::Max(hn::Load(d, at(t + i)), maxima[i]);
    }
    for (; t < tokens; ++t) maxima[0] = hn::Max(hn::Load(d, at(t)), maxima[0]);
    const auto max = hn::Max(hn::Max(maxima[0], maxima[1]), hn::Max(maxima[2], maxima[3]));
    FloatVec sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    for (t = 0; t + 4 <= tokens; t += 4) {
      FloatVec weights[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        weights[i] = hn::Mul(hn::Sub(hn::Load(d, at(t + i)), max), scale);
      }
      RaiseTo<PowerError::kFloat>(weights);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        hn::Store(weights[i], d, at(t + i));
        sums[i] = hn::Add(sums[i], weights[i]);
      }
    }
    for (; t < tokens; ++t) {
      FloatVec weights[] = {hn::Mul(hn::Sub(hn::Load(d, at(t)), max), scale)};
      RaiseTo<PowerError::kFloat>(weights);
      hn::Store(weights[0], d, at(t));
      sums[0] = hn::Add(sums[0], weights[0]);
    }
    const auto sum = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
    hn::Store(hn::Div(hn::Set(d, 1.0f), sum), d, inverse_sums + v * kLanes);
  }
}

// Some queries by one panel of columns of the values.
struct WeightedSum {
  std::int64_t tokens = 0;
  const float* weights = nullptr;  // [tokens][tile columns], at the first query
  const float* values = nullptr;
  std::int64_t width = 0;  // of the panel
  std::int64_t columns = 0;
  const float* inverse_sums = nullptr;
  float* out = nullptr;
  std::int64_t out_stride = 0;
};

template <int kRows, int kVectors>
HWY_NOINLINE void RunWeightedSum(const WeightedSum& call) {
  FloatVec acc[kRows][kVectors];
  MultiplyTile<Float32, kRows, kVectors, kTileColumns, kVectors * kLanes>(
      std::min(call.tokens, kBlockTokens), call.weights, call.values, acc);
  for (std::int64_t t = kBlockTokens; t < call.tokens; t += kBlockTokens) {
    FloatVec block[kRows][kVectors];
    MultiplyTile<Float32, kRows, kVectors, kTileColumns, kVectors * kLanes>(
        std::min(call.tokens - t, kBlockTokens), call.weights + t * kTileColumns,
        call.values + t * call.width, block);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) acc[r][v] = hn::Add(acc[r][v], block[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const auto scale = hn::Set(FloatTag(), call.inverse_sums[r]);
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      StoreColumns(hn::Mul(acc[r][v], scale), call.out + r * call.out_stride + v * kLanes,
                   call.columns - v * kLanes);
    }
  }
}

using WeightedSumFunction = void (*)(const WeightedSum&);

template <int kVectors>
HWY_INLINE void WeightedSumOfRows(std::int64_t rows, const WeightedSum& call) {
  static constexpr WeightedSumFunction kByRows[] = {
    RunWeightedSum<1, kVectors>,
    RunWeightedSum<2, kVectors>,
    RunWeightedSum<3, kVectors>,
    RunWeightedSum<4, kVectors>,
#if SIGLIP_TILE_OF_12_ROWS
    RunWeightedSum<5, kVectors>,
    RunWeightedSum<6, kVectors>,
    RunWeightedSum<7, kVectors>,
    RunWeightedSum<8, kVectors>,
#endif
  };
  kByRows[rows - 1](call);
}

void WeightValues(const AttentionScratch& scratch, std::int64_t tokens, std::int64_t queries,
                  std::int64_t head_dim, const float* inverse_sums, float* out,
                  std::int64_t out_stride) {
  WeightedSum call;
  call.tokens = tokens;
  call.out_stride = out_stride;
  call.values = scratch.values;
  for (std::int64_t column = 0; column < head_dim; column += kValueColumns) {
    call.width = std::min<std::int64_t>(kValueColumns, RoundUp(head_dim - column, kLanes));
    call.columns = std::min(call.width, head_dim - column);
    for (std::int64_t query = 0; query < queries; query += kValueRows) {
      const std::int64_t rows = std::min<std::int64_t>(kValueRows, queries - query);
      call.weights = scratch.scores + query;
      call.inverse_sums = inverse_sums + query;
      call.out = out + query * out_stride + column;
      if (call.width == kValueColumns) {
        WeightedSumOfRows<kValueVectors>(rows, call);
      } else if (call.width > kLanes) {
        WeightedSumOfRows<2>(rows, call);
      } else {
        WeightedSumOfRows<1>(rows, call);
      }
    }
    call.values += tokens * call.width;
  }
}

#if SIGLIP_TARGET_HAS_AMX
// On AMX both products are of bfloat16: a tile of integers would hold 64 of them, which a head of
// 72 leaves half empty, and three sums to be added. Where int16's error is asked for, each factor
// is split in two (amx-inl.h), and the factors of Q K^T lie one behind the other in a row, (upper,
// lower, upper) of keys, (upper, upper, lower) of queries, so that three products are one.
enum class AmxSplit { kNone, kTwo };
inline constexpr std::int64_t kTileElements = 2 * kAmxRows;  // bfloat16 of a row of a tile

template <AmxSplit kSplit>
std::int64_t AmxFactorTiles(std::int64_t head_dim) {
  const std::int64_t parts = kSplit == AmxSplit::kTwo ? 3 : 1;
  return RoundUp(parts * head_dim, kTileElements) / kTileElements;
}

// One row of a factor at `to`, [AmxFactorTiles() * kTileElements], zero at its end. Up to a whole
// vector more is written.
template <AmxSplit kSplit>
void SplitFactor(const float* row, std::int64_t head_dim, bool key, std::int16_t* to) {
  constexpr auto upper = SplitFloats<Bfloat16Part::kUpper>;
  constexpr auto lower = SplitFloats<Bfloat16Part::kLower>;
  std::int16_t* const end = to + AmxFactorTiles<kSplit>(head_dim) * kTileElements;
  // In this order, as each writes past its end.
  upper(row, head_dim, to);
  to += head_dim;
  if constexpr (kSplit == AmxSplit::kTwo) {
    (key ? lower : upper)(row, head_dim, to);
    (key ? upper : lower)(row, head_dim, to + head_dim);
    to += 2 * head_dim;
  }
  std::fill(to, end, std::int16_t{0});
}

inline constexpr std::int64_t kMaxFactor =
    3 * 2 * kGemmBlockSteps + kTileElements;  // elements of a row, and room past its end

// Tiles of 16 keys: [tokens / 16][AmxFactorTiles()].
template <AmxSplit kSplit>
void PackKeysAmx(const float* k, std::int64_t tokens, std::int64_t stride, std::int64_t head_dim,
                 float* to) {
  const std::int64_t tiles = AmxFactorTiles<kSplit>(head_dim);
  auto* bytes = reinterpret_cast<std::uint8_t*>(to);
  HWY_ALIGN std::int16_t row[kMaxFactor];
  for (std::int64_t token = 0; token < RoundUp(tokens, kAmxTokens); ++token) {
    if (token < tokens) {
      SplitFactor<kSplit>(k + token * stride, head_dim, true, row);
    } else {
      std::fill_n(row, tiles * kTileElements, std::int16_t{0});
    }
    std::uint8_t* tile =
        bytes + token / kAmxRows * tiles * kAmxTileBytes + token % kAmxRows * kAmxRowBytes;
    for (std::int64_t i = 0; i < tiles; ++i, tile += kAmxTileBytes) {
      std::memcpy(tile, row + i * kTileElements, kAmxRowBytes);
    }
  }
}

// Tiles of 16 queries as columns: [2][AmxFactorTiles()]; zeros past `count`.
template <AmxSplit kSplit>
void PackQueriesAmx(const AttentionCall& call, const float* q, std::int64_t count, float* to) {
  const std::int64_t tiles = AmxFactorTiles<kSplit>(call.head_dim);
  HWY_ALIGN float rows[4][kMaxFactor / 2];
  const float* from[4] = {rows[0], rows[1], rows[2], rows[3]};
  for (std::int64_t query = 0; query < kAmxQueries; query += 4) {
    for (std::int64_t i = 0; i < 4; ++i) {
      if (query + i < count) {
        SplitFactor<kSplit>(q + (query + i) * call.row_stride, call.head_dim, false,
                            reinterpret_cast<std::int16_t*>(rows[i]));
      } else {
        std::fill_n(rows[i], tiles * kAmxRows, 0.0f);
      }
    }
    PackRows<kAmxRows>(from, 4, tiles * kAmxRows,
                       to + query / kAmxRows * tiles * kAmxRows * kAmxRows + query % kAmxRows);
  }
}

// Tiles of the values that a tile of weights is multiplied by.
template <AmxSplit kSplit>
inline constexpr std::int64_t kValueParts = kSplit == AmxSplit::kTwo ? 2 : 1;

// Transposed values, for each five tiles of 16 columns: [tokens / 32][columns / 16], of each the
// upper bfloat16, and the lower one if they are split.
template <AmxSplit kSplit>
void PackValuesAmx(const float* v, std::int64_t tokens, std::int64_t stride, std::int64_t head_dim,
                   float* values) {
  auto* to = reinterpret_cast<std::int16_t*>(values);
  constexpr std::int64_t kTile = kAmxRows * kTileElements;
  for (std::int64_t first = 0; first < head_dim; first += kAmxValueTiles * kAmxRows) {
    const std::int64_t end = std::min(head_dim, first + kAmxValueTiles * kAmxRows);
    for (std::int64_t token = 0; token < tokens; token += kAmxTokens) {
      const std::int64_t rows = std::min(kAmxTokens, tokens - token);
      for (std::int64_t column = first; column < end; column += kAmxRows) {
        const std::int64_t columns = std::min<std::int64_t>(kAmxRows, end - column);
        HWY_ALIGN float transposed[kAmxRows * kAmxTokens];
        if (rows < kAmxTokens || columns < kAmxRows) {
          std::fill_n(transposed, kAmxRows * kAmxTokens, 0.0f);
        }
        const float* from[kAmxTokens];
        for (std::int64_t r = 0; r < rows; ++r) from[r] = v + (token + r) * stride + column;
        PackRows<kAmxTokens>(from, rows, columns, transposed);
        for (std::int64_t r = 0; r < kAmxRows; ++r) {
          const float* row = transposed + r * kAmxTokens;
          SplitFloats<Bfloat16Part::kUpper>(row, kAmxTokens, to + r * kTileElements);
          if constexpr (kSplit == AmxSplit::kTwo) {
            SplitFloats<Bfloat16Part::kLower>(row, kAmxTokens, to + kTile + r * kTileElements);
          }
        }
        to += kValueParts<kSplit> * kTile;
      }
    }
  }
}

// scores [tokens][32 queries]: two tiles of tokens by two of queries at a time.
template <AmxSplit kSplit>
void ScoresAmx(const AttentionScratch& scratch, std::int64_t tokens, std::int64_t head_dim) {
  const std::int64_t tiles = AmxFactorTiles<kSplit>(head_dim);
  const std::int64_t bytes = tiles * kAmxTileBytes;
  const auto* keys = reinterpret_cast<const std::uint8_t*>(scratch.keys);
  const auto* queries = reinterpret_cast<const std::uint8_t*>(scratch.queries);
  float* to = scratch.scores;
  const std::int64_t row_bytes = kAmxRowBytes;
  const std::int64_t score_bytes = kAmxQueries * sizeof(float);
  for (std::int64_t token = 0; token < tokens; token += kAmxTokens) {
    const std::uint8_t* a0 = keys;
    const std::uint8_t* a1 = keys + bytes;
    const std::uint8_t* b0 = queries;
    const std::uint8_t* b1 = queries + bytes;
    std::int64_t n = tiles;
    // clang-format off
    asm volatile(
        "tilezero %%tmm0\n\t"
        "tilezero %%tmm1\n\t"
        "tilezero %%tmm2\n\t"
        "tilezero %%tmm3\n\t"
        ".p2align 5\n"
        "1:\n\t"
        "tileloadd (%[b0],%[row],1), %%tmm6\n\t"
        "tileloadd (%[a0],%[row],1), %%tmm4\n\t"
        "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\t"
        "tileloadd (%[b1],%[row],1), %%tmm7\n\t"
        "tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n\t"
        "tileloadd (%[a1],%[row],1), %%tmm5\n\t"
        "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n\t"
        "tdpbf16ps %%tmm7, %%tmm5, %%tmm3\n\t"
        "add %[tile], %[a0]\n\t"
        "add %[tile], %[a1]\n\t"
        "add %[tile], %[b0]\n\t"
        "add %[tile], %[b1]\n\t"
        "dec %[n]\n\t"
        "jnz 1b\n\t"
        : [a0] "+r"(a0), [a1] "+r"(a1), [b0] "+r"(b0), [b1] "+r"(b1), [n] "+r"(n)
        : [row] "r"(row_bytes), [tile] "i"(kAmxTileBytes)
        : "cc", "memory");
    asm volatile(
        "tilestored %%tmm0, (%[to],%[row],1)\n\t"
        "tilestored %%tmm1, 64(%[to],%[row],1)\n\t"
        "tilestored %%tmm2, (%[to1],%[row],1)\n\t"
        "tilestored %%tmm3, 64(%[to1],%[row],1)\n\t"
        : : [to] "r"(to), [to1] "r"(to + kAmxRows * kAmxQueries), [row] "r"(score_bytes)
        : "memory");
    // clang-format on
    keys += 2 * bytes;
    to += kAmxTokens * kAmxQueries;
  }
}

// As Softmax, and the weights as bfloat16: rows 2 t and 2 t + 1 of scores become, for each query,
// the upper ones of tokens 2 t and 2 t + 1 and, if they are split, the lower ones. Zeros up to 32
// tokens.
template <AmxSplit kSplit>
void SoftmaxAmx(float* scores, std::int64_t tokens, float head_scale, float* inverse_sums) {
  const FloatTag d;
  const IntTag di;
  constexpr bool k8Bits = kSplit == AmxSplit::kNone;
  const auto scale = hn::Set(d, head_scale * kLog2E);
  // Of two tokens: the first in the lower half of each lane.
  const auto pair = [&](FloatVec first, FloatVec second) HWY_ATTR {
    const auto low = hn::ShiftRight<16>(hn::BitCast(hn::RebindToUnsigned<FloatTag>(), first));
    return hn::BitCast(d, hn::Or(hn::BitCast(di, low), hn::BitCast(di, second)));
  };
  for (std::int64_t x = 0; x < kAmxQueries; x += kLanes) {
    float* column = scores + x;
    FloatVec maxima[2] = {hn::Load(d, column), hn::Load(d, column)};
    std::int64_t t = 0;
    for (; t + 2 <= tokens; t += 2) {
      maxima[0] = hn::Max(hn::Load(d, column + t * kAmxQueries), maxima[0]);
      maxima[1] = hn::Max(hn::Load(d, column + (t + 1) * kAmxQueries), maxima[1]);
    }
    if (t < tokens) maxima[0] = hn::Max(hn::Load(d, column + t * kAmxQueries), maxima[0]);
    const auto max = hn::Max(maxima[0], maxima[1]);
    FloatVec sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    constexpr PowerError kError = k8Bits ? PowerError::k8Bits : PowerError::kFloat;
    const auto power = [&](std::int64_t token) HWY_ATTR {
      return hn::Mul(hn::Sub(hn::Load(d, column + token * kAmxQueries), max), scale);
    };
    const auto store = [&](std::int64_t token, FloatVec first, FloatVec second) HWY_ATTR {
      const auto first_upper = NearestBfloat16(first);
      const auto second_upper = NearestBfloat16(second);
      float* at = column + token * kAmxQueries;
      hn::Store(pair(first_upper, second_upper), d, at);
      if constexpr (kSplit == AmxSplit::kTwo) {
        hn::Store(pair(NearestBfloat16(hn::Sub(first, first_upper)),
                       NearestBfloat16(hn::Sub(second, second_upper))),
                  d, at + kAmxQueries);
      }
    };
    t = 0;
    for (; t + 4 <= tokens; t += 4) {
      FloatVec weights[] = {power(t), power(t + 1), power(t + 2), power(t + 3)};
      RaiseTo<kError>(weights);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) sums[i] = hn::Add(sums[i], weights[i]);
      store(t, weights[0], weights[1]);
      store(t + 2, weights[2], weights[3]);
    }
    for (; t < tokens; t += 2) {
      const bool two = t + 1 < tokens;
      FloatVec weights[] = {power(t), two ? power(t + 1) : hn::Zero(d)};
      RaiseTo<kError>(weights);
      if (!two) weights[1] = hn::Zero(d);
      sums[0] = hn::Add(hn::Add(sums[0], weights[0]), weights[1]);
      store(t, weights[0], weights[1]);
    }
    for (; t < RoundUp(tokens, kAmxTokens); ++t) {
      hn::Store(hn::Zero(d), d, column + t * kAmxQueries);
    }
    const auto sum = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
    hn::Store(hn::Div(hn::Set(d, 1.0f), sum), d, inverse_sums + x);
  }
}

template <int kTile>
HWY_INLINE void ZeroAmxSum() {
  asm volatile("tilezero %%tmm%c[sum]" : : [sum] "i"(kTile));
}

template <int kTile>
HWY_INLINE void StoreAmxSum(float* to) {
  const std::int64_t row_bytes = kAmxRowBytes;
  asm volatile("tilestored %%tmm%c[sum], (%[to],%[row],1)"
               :
               : [to] "r"(to), [row] "r"(row_bytes), [sum] "i"(kTile)
               : "memory");
}

// Sum kTile of WeightValuesAmx: += the tiles of values, transposed, by those of weights.
template <AmxSplit kSplit, int kTile>
HWY_INLINE void AddAmxValues(const std::uint8_t* values) {
  const std::int64_t row_bytes = kAmxRowBytes;
  asm volatile(
      "tileloadd (%[v],%[row],1), %%tmm5\n\t"
      "tdpbf16ps %%tmm6, %%tmm5, %%tmm%c[sum]\n\t"
      :
      : [v] "r"(values), [row] "r"(row_bytes), [sum] "i"(kTile)
      : "memory");
  if constexpr (kSplit == AmxSplit::kTwo) {
    asm volatile(
        "tdpbf16ps %%tmm7, %%tmm5, %%tmm%c[sum]\n\t"
        "tileloadd %c[tile](%[v],%[row],1), %%tmm5\n\t"
        "tdpbf16ps %%tmm6, %%tmm5, %%tmm%c[sum]\n\t"
        :
        : [v] "r"(values), [row] "r"(row_bytes), [tile] "i"(kAmxTileBytes), [sum] "i"(kTile)
        : "memory");
  }
}

// 16 queries by kTiles tiles of columns of the values: sums [16 * kTiles][16 queries].
template <AmxSplit kSplit, int... kTile>
HWY_NOINLINE void WeightValuesAmx(std::integer_sequence<int, kTile...>, std::int64_t tokens,
                                  const float* weights, const std::uint8_t* values, float* sums) {
  const std::int64_t two_rows = 2 * kAmxQueries * sizeof(float);
  constexpr std::int64_t kBytes = kValueParts<kSplit> * kAmxTileBytes;
  (ZeroAmxSum<kTile>(), ...);
  for (std::int64_t token = 0; token < tokens; token += kAmxTokens) {
    asm volatile("tileloadd (%[upper],%[rows],1), %%tmm6"
                 :
                 : [upper] "r"(weights), [rows] "r"(two_rows)
                 : "memory");
    if constexpr (kSplit == AmxSplit::kTwo) {
      asm volatile("tileloadd (%[lower],%[rows],1), %%tmm7"
                   :
                   : [lower] "r"(weights + kAmxQueries), [rows] "r"(two_rows)
                   : "memory");
    }
    (AddAmxValues<kSplit, kTile>(values + kTile * kBytes), ...);
    weights += kAmxTokens * kAmxQueries;
    values += static_cast<std::int64_t>(sizeof...(kTile)) * kBytes;
  }
  (StoreAmxSum<kTile>(sums + kTile * kAmxRows * kAmxRows), ...);
}

template <AmxSplit kSplit>
void WeightValuesAmx(const AttentionScratch& scratch, std::int64_t tokens, std::int64_t queries,
                     std::int64_t head_dim, const float* inverse_sums, float* out,
                     std::int64_t out_stride) {
  using Function = void (*)(std::int64_t, const float*, const std::uint8_t*, float*);
  static constexpr Function kByTiles[kAmxValueTiles] = {
      [](auto... call) { WeightValuesAmx<kSplit>(std::make_integer_sequence<int, 1>(), call...); },
      [](auto... call) { WeightValuesAmx<kSplit>(std::make_integer_sequence<int, 2>(), call...); },
      [](auto... call) { WeightValuesAmx<kSplit>(std::make_integer_sequence<int, 3>(), call...); },
      [](auto... call) { WeightValuesAmx<kSplit>(std::make_integer_sequence<int, 4>(), call...); },
      [](auto... call) { WeightValuesAmx<kSplit>(std::make_integer_sequence<int, 5>(), call...); }};
  constexpr std::int64_t kColumns = kAmxValueTiles * kAmxRows;
  HWY_ALIGN float sums[kColumns * kAmxRows];
  HWY_ALIGN float transposed[kAmxRows * kColumns];
  const auto* values = reinterpret_cast<const std::uint8_t*>(scratch.values);
  for (std::int64_t column = 0; column < head_dim; column += kColumns) {
    const std::int64_t columns = std::min(kColumns, head_dim - column);
    const std::int64_t tiles = (columns + kAmxRows - 1) / kAmxRows;
    for (std::int64_t query = 0; query < queries; query += kAmxRows) {
      kByTiles[tiles - 1](tokens, scratch.scores + query, values, sums);
      const float* from[kColumns];
      for (std::int64_t x = 0; x < columns; ++x) from[x] = sums + x * kAmxRows;
      PackRows<kColumns>(from, columns, kAmxRows, transposed);
      for (std::int64_t q = 0; q < std::min<std::int64_t>(kAmxRows, queries - query); ++q) {
        const auto scale = hn::Set(FloatTag(), inverse_sums[query + q]);
        for (std::int64_t x = 0; x < columns; x += kLanes) {
          const auto value = LoadColumns(transposed + q * kColumns + x, columns - x);
          StoreColumns(hn::Mul(value, scale), out + (query + q) * out_stride + column + x,
                       columns - x);
        }
      }
    }
    values +=
        RoundUp(tokens, kAmxTokens) / kAmxTokens * tiles * kValueParts<kSplit> * kAmxTileBytes;
  }
}

// As AttentionHeadTarget, which calls it.
template <AmxSplit kSplit>
void AttentionHeadAmx(const AttentionCall& call, const AttentionItem& item, std::int64_t head,
                      std::int64_t begin, std::int64_t end, const AttentionScratch& scratch) {
  const std::int64_t first = item.first_row * call.row_stride + head * call.head_dim;
  const std::int64_t tokens = item.tokens;
  PackKeysAmx<kSplit>(call.k + first, tokens, call.row_stride, call.head_dim, scratch.keys);
  PackValuesAmx<kSplit>(call.v + first, tokens, call.row_stride, call.head_dim, scratch.values);
  const float scale = 1 / std::sqrt(static_cast<float>(call.head_dim));
  HWY_ALIGN float inverse_sums[kAmxQueries];
  const AmxTiles tiles;
  for (std::int64_t query = begin; query < end; query += kAmxQueries) {
    const std::int64_t count = std::min(kAmxQueries, end - query);
    PackQueriesAmx<kSplit>(call, call.q + first + (item.query_begin + query) * call.row_stride,
                           count, scratch.queries);
    ScoresAmx<kSplit>(scratch, tokens, call.head_dim);
    SoftmaxAmx<kSplit>(scratch.scores, tokens, scale, inverse_sums);
    float* out = call.out + (item.first_answer + query) * call.out_stride + head * call.head_dim;
    WeightValuesAmx<kSplit>(scratch, tokens, count, call.head_dim, inverse_sums, out,
                            call.out_stride);
  }
}
#endif

// Queries [begin, end), counted from query_begin, of one head of one item.
void AttentionHeadTarget(const AttentionCall& call, const AttentionItem& item, std::int64_t head,
                         std::int64_t begin, std::int64_t end, const AttentionScratch& scratch) {
  const std::int64_t first = item.first_row * call.row_stride + head * call.head_dim;
  const std::int64_t tokens = item.tokens;
  const bool integers = call.format != GemmFormat::kFp32 && call.head_dim <= 2 * kGemmBlockSteps;
  const bool vnni = KernelUsesVnni();
#if SIGLIP_TARGET_HAS_AMX
  if (integers && KernelUsesAmx()) {
    const auto attend = call.format == GemmFormat::kInt16 ? AttentionHeadAmx<AmxSplit::kTwo>
                                                          : AttentionHeadAmx<AmxSplit::kNone>;
    return attend(call, item, head, begin, end, scratch);
  }
#endif
  if (integers) {
    (vnni ? PackKeysInt16<kTileRows> : PackKeysInt16<kWinogradTileRows>)(call.k + first, tokens,
                                                                         call.row_stride,
                                                                         call.head_dim, scratch);
  } else {
    PackKeys(call.k + first, tokens, call.row_stride, call.head_dim, scratch.keys);
  }
  PackValues(call.v + first, tokens, call.row_stride, call.head_dim, scratch.values);
  const auto scores_int16 = vnni ? ScoresInt16<Int16PairVnni, kTileRows>
                                 : ScoresInt16<Int16PairWinograd, kWinogradTileRows>;
  HWY_ALIGN std::int32_t query_products[kTileColumns];
  HWY_ALIGN float scales[kTileColumns];
  HWY_ALIGN float inverse_sums[kTileColumns];
  for (std::int64_t query = begin; query < end; query += kTileColumns) {
    const std::int64_t count = std::min<std::int64_t>(kTileColumns, end - query);
    const float* q = call.q + first + (item.query_begin + query) * call.row_stride;
    if (integers) {
      PackQueriesInt16(call, q, count, scratch.queries, scales, query_products);
      scores_int16(scratch, tokens, (call.head_dim + 1) / 2, query_products);
    } else {
      PackQueries(call, q, count, scratch.queries, scales);
      Scores(scratch, tokens, call.head_dim);
    }
    Softmax(scratch.scores, tokens, scales, inverse_sums);
    float* out = call.out + (item.first_answer + query) * call.out_stride + head * call.head_dim;
    WeightValues(scratch, tokens, count, call.head_dim, inverse_sums, out, call.out_stride);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace siglip {
HWY_EXPORT(AttentionHeadTarget);

namespace {

AttentionScratch Divide(std::int64_t tokens, std::int64_t head_dim, float* memory) {
  AttentionScratch scratch;
  const std::int64_t rows = tokens + kMaxTileRows;
  // Room for AMX too: keys and queries in three parts of two bytes each, values in two.
  const std::int64_t factor = std::max(head_dim, RoundUp(3 * head_dim, 32) / 2);
  scratch.keys = memory;
  scratch.key_scales = scratch.keys + RoundUp(rows * factor, 16);
  scratch.key_products = reinterpret_cast<std::int32_t*>(scratch.key_scales + RoundUp(rows, 16));
  scratch.values = scratch.key_scales + 2 * RoundUp(rows, 16);
  scratch.queries = scratch.values + RoundUp(rows * (head_dim + kMaxLanes), 16);
  scratch.scores = scratch.queries + factor * kMaxTileColumns;
  return scratch;
}

AttentionItem ItemOf(const AttentionCall& call, std::int64_t i) {
  if (call.row_begins == nullptr) {
    return {i * call.tokens, call.tokens, call.query_begin, call.query_count, i * call.query_count};
  }
  const std::int64_t begin = call.row_begins[i];
  const std::int64_t tokens = call.row_begins[i + 1] - begin;
  return {begin, tokens, 0, tokens, begin};
}

// A piece packs its head's keys and values once, so there are no more than the threads need.
constexpr std::int64_t kPiecesPerThread = 4;

}  // namespace

std::size_t AttentionScratchFloats(std::int64_t tokens, std::int64_t head_dim) {
  const AttentionScratch scratch = Divide(tokens, head_dim, nullptr);
  return static_cast<std::size_t>(scratch.scores - scratch.keys +
                                  (tokens + kMaxTileRows) * kMaxTileColumns);
}

void Attention(ThreadTeam& team, const AttentionCall& call, float* scratch) {
  const std::int64_t heads = call.batch * call.heads;
  const std::int64_t most_queries = call.row_begins == nullptr ? call.query_count : call.tokens;
  if (heads == 0 || most_queries == 0) return;
  const std::int64_t blocks = (most_queries + kMaxTileColumns - 1) / kMaxTileColumns;
  const std::int64_t wanted =
      team.num_threads() == 1 ? 1 : (kPiecesPerThread * team.num_threads() + heads - 1) / heads;
  const std::int64_t pieces = std::min(wanted, blocks);
  const std::int64_t piece = (blocks + pieces - 1) / pieces * kMaxTileColumns;
  const std::size_t per_worker = AttentionScratchFloats(call.tokens, call.head_dim);
  ParallelFor(team, heads * pieces, [&](int worker, std::int64_t i) {
    const std::int64_t head = i / pieces;
    const AttentionItem item = ItemOf(call, head / call.heads);
    const std::int64_t begin = i % pieces * piece;
    const std::int64_t end = std::min(item.query_count, begin + piece);
    if (begin >= end) return;
    HWY_DYNAMIC_DISPATCH(AttentionHeadTarget)
    (call, item, head % call.heads, begin, end,
     Divide(call.tokens, call.head_dim, scratch + static_cast<std::size_t>(worker) * per_worker));
  });
}

}  // namespace siglip
#endif  // HWY_ONCE
