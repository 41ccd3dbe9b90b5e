#include "kernels/pooling.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/pooling.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "kernels/micro_kernel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {

// to[j] = factor * sum over t of weights[t * heads] x[t * width + j].
void WeighRowsTarget(const float* x, const float* weights, std::int64_t tokens, std::int64_t heads,
                     std::int64_t width, float factor, float* to) {
  const FloatTag d;
  constexpr int kVectors = 4;
  std::int64_t j = 0;
  for (; j + kVectors * kLanes <= width; j += kVectors * kLanes) {
    FloatVec sums[kVectors] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    for (std::int64_t t = 0; t < tokens; ++t) {
      const auto weight = hn::Set(d, weights[t * heads]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sums[v] = hn::MulAdd(weight, hn::LoadU(d, x + t * width + j + v * kLanes), sums[v]);
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      hn::StoreU(hn::Mul(sums[v], hn::Set(d, factor)), d, to + j + v * kLanes);
    }
  }
  for (; j < width; j += kLanes) {
    auto sum = hn::Zero(d);
    for (std::int64_t t = 0; t < tokens; ++t) {
      sum = hn::MulAdd(hn::Set(d, weights[t * heads]), LoadColumns(x + t * width + j, width - j),
                       sum);
    }
    StoreColumns(hn::Mul(sum, hn::Set(d, factor)), to + j, width - j);
  }
}

float DotTarget(const float* a, const float* b, std::int64_t count) {
  const FloatTag d;
  FloatVec sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      sums[v] =
          hn::MulAdd(hn::LoadU(d, a + i + v * kLanes), hn::LoadU(d, b + i + v * kLanes), sums[v]);
    }
  }
  for (; i < count; i += kLanes) {
    sums[0] = hn::MulAdd(LoadColumns(a + i, count - i), LoadColumns(b + i, count - i), sums[0]);
  }
  const auto sum = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace siglip {
HWY_EXPORT(WeighRowsTarget);
HWY_EXPORT(DotTarget);

void PoolTokens(ThreadTeam& team, const PoolTokensCall& call) {
  ParallelFor(team, call.batch * call.heads, [&](int, std::int64_t i) {
    const std::int64_t item = i / call.heads;
    const bool equal = call.row_begins == nullptr;
    const std::int64_t first = equal ? item * call.tokens : call.row_begins[item];
    const std::int64_t tokens = equal ? call.tokens : call.row_begins[item + 1] - first;
    // One head's scores lie `heads` apart. So few that plain code does.
    float* scores = call.scores + first * call.heads + i % call.heads;
    float max = scores[0];
    for (std::int64_t t = 1; t < tokens; ++t) max = std::max(max, scores[t * call.heads]);
    double sum = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      sum += scores[t * call.heads] = std::exp(scores[t * call.heads] - max);
    }
    HWY_DYNAMIC_DISPATCH(WeighRowsTarget)
    (call.x + first * call.width, scores, tokens, call.heads, call.width,
     static_cast<float>(1 / sum), call.sums + i * call.width);
  });
}

void ProjectHeads(ThreadTeam& team, const ProjectHeadsCall& call) {
  constexpr std::int64_t kRows = 16;
  const std::int64_t head_dim = call.width / call.heads;
  ParallelFor(team, (call.width + kRows - 1) / kRows, [&](int, std::int64_t block) {
    const std::int64_t end = std::min(call.width, (block + 1) * kRows);
    for (std::int64_t j = block * kRows; j < end; ++j) {
      for (std::int64_t item = 0; item < call.batch; ++item) {
        const float* sums = call.sums + (item * call.heads + j / head_dim) * call.width;
        call.out[item * call.width + j] =
            HWY_DYNAMIC_DISPATCH(DotTarget)(call.w + j * call.width, sums, call.width) +
            call.bias[j];
      }
    }
  });
}

}  // namespace siglip
#endif  // HWY_ONCE
