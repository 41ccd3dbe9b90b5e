// Rounding rows to 16-bit integers. Included once per Highway target by the .cc files of
// src/kernels.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>

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

// sqrt(2^31), less what rounding to integers can add to the norm of a block (half of sqrt(576)) and
// the rounding of the sums below.
inline constexpr float kMaxBlockNorm = 46320;
inline constexpr float kMaxInteger = 32767;
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

HWY_INLINE Quantizer ChooseQuantizer(const float* row, std::int64_t k) {
  const FloatTag d;
  auto max_lanes = hn::Zero(d);
  // 0 * x is NaN for what is not finite, and stays so in a sum.
  const auto nan_lanes = Reduce(row, k, [&](FloatVec x, FloatVec sum) HWY_ATTR {
    max_lanes = hn::Max(max_lanes, hn::Abs(x));
    return hn::MulAdd(x, hn::Zero(d), sum);
  });
  const float nan = hn::GetLane(hn::SumOfLanes(d, nan_lanes));
  if (std::isnan(nan)) return {0, nan};
  const float max = hn::GetLane(hn::MaxOfLanes(d, max_lanes));
  if (max < kMinMagnitude) return {};
  const auto to_unit = hn::Set(d, 1 / max);
  float max_square = 0;
  for (std::int64_t first = 0; first < k; first += 2 * kGemmBlockStepsInt16) {
    const auto squares = Reduce(row + first, std::min(k - first, 2 * kGemmBlockStepsInt16),
                                [&](FloatVec x, FloatVec sum) HWY_ATTR {
                                  const auto unit = hn::Mul(x, to_unit);
                                  return hn::MulAdd(unit, unit, sum);
                                });
    max_square = std::max(max_square, hn::GetLane(hn::SumOfLanes(d, squares)));
  }
  const float limit = std::min(kMaxInteger, kMaxBlockNorm / std::sqrt(max_square));
  return {limit / max, max / limit};
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

// What Int16PairWinograd asks of a row's part in a block of K: `steps` steps of integers. Zeros
// where it is nothing of its own.
HWY_INLINE IntegerBlock DescribeIntegers([[maybe_unused]] const std::int16_t* integers,
                                         [[maybe_unused]] std::int64_t steps) {
#if HWY_TARGET == HWY_AVX2
  const hn::Repartition<std::int16_t, FloatTag> d16;
  const hn::Repartition<std::uint64_t, FloatTag> d64;
  const std::int64_t in_fours = steps / 4 * 4;
  auto sums = hn::Zero(IntTag());
  auto unused = sums;
  auto largest = hn::Zero(d16);
  std::int64_t step = 0;
  for (; step + kLanes <= in_fours; step += kLanes) {
    const auto pairs = hn::LoadU(d16, integers + 2 * step);
    // Beside the first pair of each two comes the second, beside the second zeros.
    const auto others = hn::BitCast(d16, hn::ShiftRight<32>(hn::BitCast(d64, pairs)));
    sums = hn::ReorderWidenMulAccumulate(IntTag(), pairs, others, sums, unused);
    largest = hn::Max(largest, hn::Abs(pairs));
  }
  // Unsigned, since it may wrap.
  auto sum = static_cast<std::uint32_t>(hn::GetLane(hn::SumOfLanes(IntTag(), sums)));
  std::int32_t magnitude = hn::GetLane(hn::MaxOfLanes(d16, largest));
  for (; step < in_fours; step += 2) {
    const std::int16_t* p = integers + 2 * step;
    sum += static_cast<std::uint32_t>(p[0] * p[2]) + static_cast<std::uint32_t>(p[1] * p[3]);
    for (int i = 0; i < 4; ++i) magnitude = std::max(magnitude, std::abs(std::int32_t{p[i]}));
  }
  return {static_cast<std::int32_t>(0 - sum), magnitude};
#else
  return {};
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
