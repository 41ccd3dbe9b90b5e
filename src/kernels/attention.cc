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
#include "kernels/micro_kernel-inl.h"
#include "kernels/quantize-inl.h"

#ifndef SIGLIP_KERNELS_ATTENTION_ONCE_
#define SIGLIP_KERNELS_ATTENTION_ONCE_
namespace siglip {

// Every target's tile has at most so many rows, columns and lanes; scratch is sized by them.
inline constexpr std::int64_t kMaxTileRows = 12;
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
    quantizers[r] = ChooseQuantizer(rows + r * row_stride, head_dim, kMaxAttentionFactor);
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
    const auto scale = hn::Load(d, scales + v * kLanes);
    auto max = hn::Load(d, column);
    for (std::int64_t t = 1; t < tokens; ++t) {
      max = hn::Max(hn::Load(d, column + t * kTileColumns), max);
    }
    FloatVec sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    std::int64_t t = 0;
    for (; t + 4 <= tokens; t += 4) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        float* at = column + (t + i) * kTileColumns;
        const auto weight = Exp(hn::Mul(hn::Sub(hn::Load(d, at), max), scale));
        hn::Store(weight, d, at);
        sums[i] = hn::Add(sums[i], weight);
      }
    }
    for (; t < tokens; ++t) {
      float* at = column + t * kTileColumns;
      const auto weight = Exp(hn::Mul(hn::Sub(hn::Load(d, at), max), scale));
      hn::Store(weight, d, at);
      sums[0] = hn::Add(sums[0], weight);
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

// Queries [begin, end), counted from query_begin, of one head of one item.
void AttentionHeadTarget(const AttentionCall& call, const AttentionItem& item, std::int64_t head,
                         std::int64_t begin, std::int64_t end, const AttentionScratch& scratch) {
  const std::int64_t first = item.first_row * call.row_stride + head * call.head_dim;
  const std::int64_t tokens = item.tokens;
  const bool integers =
      call.format == GemmFormat::kInt16 && call.head_dim <= 2 * kGemmBlockStepsInt16;
  const bool vnni = KernelUsesVnni();
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
  scratch.keys = memory;
  scratch.key_scales = scratch.keys + RoundUp(rows * head_dim, 16);
  scratch.key_products = reinterpret_cast<std::int32_t*>(scratch.key_scales + RoundUp(rows, 16));
  scratch.values = scratch.key_scales + 2 * RoundUp(rows, 16);
  scratch.queries = scratch.values + RoundUp(tokens * (head_dim + kMaxLanes), 16);
  scratch.scores = scratch.queries + head_dim * kMaxTileColumns;
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
