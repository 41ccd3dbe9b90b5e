#include "kernels/layer_norm.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/layer_norm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "kernels/micro_kernel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {

// Four partial sums per lane, in the order of the columns, become one.
HWY_INLINE float Total(const FloatVec* sums) {
  const auto sum = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
  return hn::GetLane(hn::SumOfLanes(FloatTag(), sum));
}

HWY_INLINE float SumOf(const float* x, std::int64_t width) {
  const FloatTag d;
  FloatVec sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sums[j] = hn::Add(sums[j], hn::LoadU(d, x + i + j * kLanes));
  }
  for (; i < width; i += kLanes) sums[0] = hn::Add(sums[0], LoadColumns(x + i, width - i));
  return Total(sums);
}

struct Moments {
  float sum = 0;
  float squares = 0;
};

// Of the differences of x [width] from `mean`.
HWY_INLINE Moments DifferencesFrom(FloatVec mean, const float* x, std::int64_t width) {
  const FloatTag d;
  FloatVec sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  FloatVec squares[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const auto difference = hn::Sub(hn::LoadU(d, x + i + j * kLanes), mean);
      sums[j] = hn::Add(sums[j], difference);
      squares[j] = hn::MulAdd(difference, difference, squares[j]);
    }
  }
  for (; i < width; i += kLanes) {
    auto difference = hn::Sub(LoadColumns(x + i, width - i), mean);
    if (width - i < kLanes) {
      difference =
          hn::IfThenElseZero(hn::FirstN(d, static_cast<std::size_t>(width - i)), difference);
    }
    sums[0] = hn::Add(sums[0], difference);
    squares[0] = hn::MulAdd(difference, difference, squares[0]);
  }
  return {Total(sums), Total(squares)};
}

void LayerNormRowTarget(const LayerNormCall& call, std::int64_t row) {
  const FloatTag d;
  const std::int64_t width = call.width;
  const float* x = call.x + row * call.x_stride;
  float* y = call.y + row * call.y_stride;
  const auto count = static_cast<float>(width);
  const float mean = SumOf(x, width) / count;
  // The sum is rounded, and where a row hardly varies, 1 / sqrt(eps) would make much of that.
  const Moments moments = DifferencesFrom(hn::Set(d, mean), x, width);
  const float correction = moments.sum / count;
  const auto mean_lanes = hn::Set(d, mean + correction);
  const float variance = std::max(moments.squares / count - correction * correction, 0.0f);
  const auto scale = hn::Set(d, 1 / std::sqrt(variance + call.eps));
  for (std::int64_t i = 0; i < width; i += kLanes) {
    const std::int64_t left = width - i;
    const auto normal = hn::Mul(hn::Sub(LoadColumns(x + i, left), mean_lanes), scale);
    StoreColumns(
        hn::MulAdd(normal, LoadColumns(call.weight + i, left), LoadColumns(call.bias + i, left)),
        y + i, left);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace siglip {
HWY_EXPORT(LayerNormRowTarget);

void LayerNorm(ThreadTeam& team, const LayerNormCall& call) {
  constexpr std::int64_t kRows = 16;
  ParallelFor(team, (call.rows + kRows - 1) / kRows, [&](int, std::int64_t block) {
    const std::int64_t end = std::min(call.rows, (block + 1) * kRows);
    for (std::int64_t row = block * kRows; row < end; ++row) {
      HWY_DYNAMIC_DISPATCH(LayerNormRowTarget)(call, row);
    }
  });
}

}  // namespace siglip
#endif  // HWY_ONCE
