// Rounding rows to integers. Included once per Highway target by the .cc files of
// src/kernels.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "kernels/gemm_kernels.h"
#include "kernels/micro_kernel-inl.h"

#if defined(SIGLIP_KERNELS_QUANTIZE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SIGLIP_KERNELS_QUANTIZE_INL_H_
#undef SIGLIP_KERNELS_QUANTIZE_INL_H_
#else
#define SIGLIP_KERNELS_QUANTIZE_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {

// Quantizing a row: see GemmFormat::kInt16.
struct Quantizer {
  float factor = 0;  // elements -> integers, before rounding
  float scale = 0;   // integers -> elements
};

// sqrt(2^31), less what rounding to integers can add to the norm of a block (half of sqrt(1152))
// and the rounding of the sums below.
inline constexpr float kMaxBlockNorm = 46320;
// Below it a factor would overflow; such a row counts as zero.
inline constexpr float kMinMagnitude = 1e-30f;

// The sum over vectors x of the row of body(x, sum so far), in four partial sums.
template <class Body>
HWY_INLINE hn::Vec<FloatTag> Reduce(const float* row, std::int64_t count, Body body) {
  const FloatTag d;
  FloatVec sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sums[j] = body(hn::LoadU(d, row + i + j * kLanes), sums[j]);
  }
  for (; i < count; i += kLanes) sums[0] = body(LoadColumns(row + i, count - i), sums[0]);
  return hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
}

// NaN if a value is not finite.
HWY_INLINE float MaxMagnitude(const float* row, std::int64_t k) {
  const FloatTag d;
  auto max_lanes = hn::Zero(d);
  // 0 * x is NaN for what is not finite, and stays so in a sum.
  const auto nan_lanes = Reduce(row, k, [&](FloatVec x, FloatVec sum) HWY_ATTR {
    max_lanes = hn::Max(max_lanes, hn::Abs(x));
    return hn::MulAdd(x, hn::Zero(d), sum);
  });
  const float nan = hn::GetLane(hn::SumOfLanes(d, nan_lanes));
  return std::isnan(nan) ? nan : hn::GetLane(hn::MaxOfLanes(d, max_lanes));
}

// max: of the magnitudes; max_square: of the norms of blocks of K, in units of `max`.
HWY_INLINE Quantizer QuantizerOf(float max, float max_square, int max_integer) {
  const float limit =
      std::min(static_cast<float>(max_integer), kMaxBlockNorm / std::sqrt(max_square));
  return {limit / max, max / limit};
}

// For a row with values that are not finite, or whose squares are not all floats.
HWY_NOINLINE inline Quantizer ChooseQuantizerOfExtremes(const float* row, std::int64_t k,
                                                        int max_integer, std::int64_t block) {
  const FloatTag d;
  const float max = MaxMagnitude(row, k);
  if (std::isnan(max)) return {0, max};
  if (max < kMinMagnitude) return {};
  const auto to_unit = hn::Set(d, 1 / max);
  float max_square = 0;
  for (std::int64_t first = 0; first < k; first += block) {
    const auto squares =
        Reduce(row + first, std::min(k - first, block), [&](FloatVec x, FloatVec sum) HWY_ATTR {
          const auto unit = hn::Mul(x, to_unit);
          return hn::MulAdd(unit, unit, sum);
        });
    max_square = std::max(max_square, hn::GetLane(hn::SumOfLanes(d, squares)));
  }
  return QuantizerOf(max, max_square, max_integer);
}

// block: elements of a block of K.
HWY_INLINE Quantizer ChooseQuantizer(const float* row, std::int64_t k, int max_integer,
                                     std::int64_t block) {
  const FloatTag d;
  auto max_lanes = hn::Zero(d);
  float max_square = 0;
  float all_squares = 0;
  for (std::int64_t first = 0; first < k; first += block) {
    const auto squares =
        Reduce(row + first, std::min(k - first, block), [&](FloatVec x, FloatVec sum) HWY_ATTR {
          max_lanes = hn::Max(max_lanes, hn::Abs(x));
          return hn::MulAdd(x, x, sum);
        });
    const float square = hn::GetLane(hn::SumOfLanes(d, squares));
    max_square = std::max(max_square, square);
    all_squares += square;
  }
  const float max = hn::GetLane(hn::MaxOfLanes(d, max_lanes));
  // Squares of what is a millionth of 1e-10 are still floats.
  if (!std::isfinite(all_squares) || !(max > 1e-10f))
    return ChooseQuantizerOfExtremes(row, k, max_integer, block);
  return QuantizerOf(max, max_square / (max * max), max_integer);
}

// Of `rows` rows of the block from `first`, whose scales it sets; limit: of an integer.
HWY_INLINE void ChooseQuantizers(const GemmCall& call, const PackedRows& block, std::int64_t first,
                                 std::int64_t rows, int limit, Quantizer* quantizers) {
  const float* row = call.a + (block.first_row + first) * call.a_stride;
  for (std::int64_t r = 0; r < rows; ++r, row += call.a_stride) {
    quantizers[r] = ChooseQuantizer(row, call.w->k(), limit, 2 * block.block_steps);
    block.scales()[first + r] = quantizers[r].scale;
  }
}

// Elements [first, first + count) of a row -> integers, zero up to an even number of them.
HWY_INLINE void Quantize(const float* row, std::int64_t first, std::int64_t count,
                         const Quantizer& quantizer, std::int16_t* to) {
  const FloatTag d;
  const hn::Rebind<std::int16_t, FloatTag> d16;
  const auto factor = hn::Set(d, quantizer.factor);
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const auto x = hn::Mul(hn::LoadU(d, row + first + i), factor);
    hn::StoreU(hn::DemoteTo(d16, hn::NearestInt(x)), d16, to + i);
  }
  if (i < count) {
    HWY_ALIGN std::int16_t lanes[kLanes];
    const auto x = hn::Mul(LoadColumns(row + first + i, count - i), factor);
    hn::Store(hn::DemoteTo(d16, hn::NearestInt(x)), d16, lanes);
    std::copy_n(lanes, count - i, to + i);
  }
  if (count % 2 != 0) to[count] = 0;
}

#if SIGLIP_TARGET_HAS_INT8
// A row of activations for GemmFormat::kInt8: an integer is zero + factor times the element.
struct QuantizerInt8 {
  float factor = 0;
  float scale = 0;  // of an integer less zero
  std::int32_t zero = 0;
};

HWY_INLINE QuantizerInt8 ChooseQuantizerInt8(const float* row, std::int64_t k) {
  const FloatTag d;
  auto lowest = hn::Zero(d);
  auto highest = hn::Zero(d);
  // 0 * x is NaN for what is not finite, and stays so in a sum.
  const auto nan_lanes = Reduce(row, k, [&](FloatVec x, FloatVec sum) HWY_ATTR {
    lowest = hn::Min(lowest, x);
    highest = hn::Max(highest, x);
    return hn::MulAdd(x, hn::Zero(d), sum);
  });
  const float nan = hn::GetLane(hn::SumOfLanes(d, nan_lanes));
  if (std::isnan(nan)) return {0, nan, 0};
  const float low = hn::GetLane(hn::MinOfLanes(d, lowest));
  const float half = 0.5f * hn::GetLane(hn::MaxOfLanes(d, highest)) - 0.5f * low;
  if (half < kMinMagnitude) return {};
  const float factor = 127.5f / half;
  return {factor, half / 127.5f, static_cast<std::int32_t>(std::lrint(-low * factor))};
}

// The same of `count` rows of the block from `first`.
HWY_INLINE void ChooseQuantizersInt8(const GemmCall& call, const PackedRows& block,
                                     std::int64_t first, std::int64_t count,
                                     QuantizerInt8* quantizers) {
  const float* row = call.a + (block.first_row + first) * call.a_stride;
  for (std::int64_t r = 0; r < count; ++r, row += call.a_stride) {
    quantizers[r] = ChooseQuantizerInt8(row, call.w->k());
    block.scales()[first + r] = quantizers[r].scale;
    for (std::int64_t i = 0; i < BlocksOf(block.steps, block.block_steps); ++i) {
      block.cross_products(i)[first + r] = quantizers[r].zero;
    }
  }
}

// Elements [first, first + count) of a row of activations, up to a multiple of four: what is past
// the row's end meets weights of zero.
HWY_INLINE void QuantizeInt8(const float* row, std::int64_t first, std::int64_t count,
                             const QuantizerInt8& quantizer, std::uint8_t* to) {
  const FloatTag d;
  const hn::Rebind<std::uint8_t, FloatTag> d8;
  const auto factor = hn::Set(d, quantizer.factor);
  const auto zero = hn::Set(IntTag(), quantizer.zero);
  const auto integers = [&](FloatVec x) HWY_ATTR {
    return hn::DemoteTo(d8, hn::Add(hn::NearestInt(hn::Mul(x, factor)), zero));
  };
  row += first;
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::StoreU(integers(hn::LoadU(d, row + i)), d8, to + i);
  if (i < count) {
    HWY_ALIGN std::uint8_t lanes[kLanes];
    hn::Store(integers(LoadColumns(row + i, count - i)), d8, lanes);
    std::copy_n(lanes, (count - i + 3) / 4 * 4, to + i);
  }
}

// A row of weights: integers of at most 127, by a factor and no zero.
HWY_INLINE Quantizer ChooseWeightQuantizerInt8(const float* row, std::int64_t k) {
  const float max = MaxMagnitude(row, k);
  if (std::isnan(max)) return {0, max};
  if (max < kMinMagnitude) return {};
  return {127 / max, max / 127};
}

HWY_INLINE void QuantizeWeightsInt8(const float* row, std::int64_t k, const Quantizer& quantizer,
                                    std::int8_t* to) {
  const FloatTag d;
  const hn::Rebind<std::int8_t, FloatTag> d8;
  const auto factor = hn::Set(d, quantizer.factor);
  HWY_ALIGN std::int8_t lanes[kLanes];
  for (std::int64_t i = 0; i < k; i += kLanes) {
    const auto x = hn::Mul(LoadColumns(row + i, k - i), factor);
    hn::Store(hn::DemoteTo(d8, hn::NearestInt(x)), d8, lanes);
    std::copy_n(lanes, std::min<std::int64_t>(kLanes, k - i), to + i);
  }
}
#endif

// One row's part of CrossProducts, for `steps` steps of a block of K. Zero where Int16PairWinograd
// is nothing of its own.
HWY_INLINE std::int32_t NegatedCrossProducts([[maybe_unused]] const std::int16_t* integers,
                                             [[maybe_unused]] std::int64_t steps) {
#if HWY_TARGET == HWY_AVX2
  const hn::Repartition<std::int16_t, FloatTag> d16;
  const hn::Repartition<std::uint64_t, FloatTag> d64;
  const std::int64_t in_fours = steps / 4 * 4;
  auto sums = hn::Zero(IntTag());
  auto unused = sums;
  std::int64_t step = 0;
  for (; step + kLanes <= in_fours; step += kLanes) {
    const auto pairs = hn::LoadU(d16, integers + 2 * step);
    // Beside the first pair of each two comes the second, beside the second zeros.
    const auto others = hn::BitCast(d16, hn::ShiftRight<32>(hn::BitCast(d64, pairs)));
    sums = hn::ReorderWidenMulAccumulate(IntTag(), pairs, others, sums, unused);
  }
  // Unsigned, since it may wrap.
  auto sum = static_cast<std::uint32_t>(hn::GetLane(hn::SumOfLanes(IntTag(), sums)));
  for (; step < in_fours; step += 2) {
    const std::int16_t* p = integers + 2 * step;
    sum += static_cast<std::uint32_t>(p[0] * p[2]) + static_cast<std::uint32_t>(p[1] * p[3]);
  }
  return static_cast<std::int32_t>(0 - sum);
#else
  return 0;
#endif
}

#if HWY_TARGET == HWY_AVX2
template <typename T>
HWY_INLINE void Store256(__m256i value, T* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value);
}
template <typename T>
HWY_INLINE void Store128(__m128i value, T* to) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), value);
}

// Elements [first, first + count) of four rows -> integers [steps][kStride], and their negated
// cross products [4]. REQUIRES: count % 8 == 0.
template <int kStride>
HWY_INLINE void QuantizeAndPack4(const float* row, std::int64_t row_stride, std::int64_t first,
                                 std::int64_t count, const Quantizer (&quantizers)[4], float* to,
                                 std::int32_t* cross_products) {
  const FloatTag d;
  const auto integers = [&](int r, std::int64_t i) HWY_ATTR {
    const auto x = hn::LoadU(d, row + r * row_stride + first + i);
    return hn::NearestInt(hn::Mul(x, hn::Set(d, quantizers[r].factor))).raw;
  };
  __m256i sums = _mm256_setzero_si256();
  for (std::int64_t i = 0; i < count; i += 8, to += 4 * kStride) {
    // In each half: two pairs of one row, then two of the other.
    const __m256 rows_0_1 = _mm256_castsi256_ps(_mm256_packs_epi32(integers(0, i), integers(1, i)));
    const __m256 rows_2_3 = _mm256_castsi256_ps(_mm256_packs_epi32(integers(2, i), integers(3, i)));
    const __m256i steps_0_2 = _mm256_castps_si256(_mm256_shuffle_ps(rows_0_1, rows_2_3, 0x88));
    const __m256i steps_1_3 = _mm256_castps_si256(_mm256_shuffle_ps(rows_0_1, rows_2_3, 0xDD));
    sums = _mm256_sub_epi32(sums, _mm256_madd_epi16(steps_0_2, steps_1_3));
    if constexpr (kStride == 4) {
      Store256(_mm256_permute2x128_si256(steps_0_2, steps_1_3, 0x20), to);
      Store256(_mm256_permute2x128_si256(steps_0_2, steps_1_3, 0x31), to + 8);
    } else {
      Store128(_mm256_castsi256_si128(steps_0_2), to);
      Store128(_mm256_castsi256_si128(steps_1_3), to + kStride);
      Store128(_mm256_extracti128_si256(steps_0_2, 1), to + 2 * kStride);
      Store128(_mm256_extracti128_si256(steps_1_3, 1), to + 3 * kStride);
    }
  }
  Store128(_mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)),
           cross_products);
}
#endif

// Elements [first, first + count) of `rows` <= kRows rows -> integers [steps][kStride] at `to`, and
// their negated cross products [rows]. The elements are in one block of K.
template <int kRows, int kStride>
HWY_INLINE void QuantizeAndPack(const float* row, std::int64_t row_stride, std::int64_t rows,
                                std::int64_t first, std::int64_t count,
                                const Quantizer (&quantizers)[kRows], float* to,
                                std::int32_t* cross_products) {
#if HWY_TARGET == HWY_AVX2
  if constexpr (kRows == 4) {
    if (rows == 4 && count % 8 == 0) {
      QuantizeAndPack4<kStride>(row, row_stride, first, count, quantizers, to, cross_products);
      return;
    }
  }
#endif
  const std::int64_t steps = (count + 1) / 2;
  HWY_ALIGN float packed[kRows * kStrassenBlockSteps];
  HWY_ALIGN std::int16_t integers[2 * kStrassenBlockSteps];
  const float* from[kRows];
  for (std::int64_t r = 0; r < rows; ++r) {
    Quantize(row + r * row_stride, first, count, quantizers[r], integers);
    cross_products[r] = NegatedCrossProducts(integers, steps);
    from[r] = packed + r * kStrassenBlockSteps;
    std::memcpy(packed + r * kStrassenBlockSteps, integers,
                static_cast<std::size_t>(steps) * sizeof(float));
  }
  PackRows<kStride>(from, rows, steps, to);
}

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
