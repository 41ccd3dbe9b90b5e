#include "kernels/fma_peak.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "base/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/fma_peak.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "kernels/micro_kernel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {

// 10 chains hide the latency of two multiply-adds a cycle.
constexpr int kChains = 10;

// Returns operations done; `sink` keeps the compiler from dropping them.
double FmaLoopTarget(std::int64_t rounds, float* sink) {
  const FloatTag d;
  FloatVec chains[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) chains[i] = hn::Set(d, static_cast<float>(i));
  const auto factor = hn::Set(d, *sink);
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) chains[i] = hn::MulAdd(factor, chains[i], factor);
  }
  hn::Vec<FloatTag> sum = chains[0];
#pragma GCC unroll 16
  for (int i = 1; i < kChains; ++i) sum = hn::Add(sum, chains[i]);
  *sink = hn::GetLane(sum);
  return 2.0 * kChains * kLanes * static_cast<double>(rounds);
}

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace siglip {
HWY_EXPORT(FmaLoopTarget);

double MeasureFmaPeak(int threads, double seconds) {
  using Clock = std::chrono::steady_clock;
  ThreadTeam team(threads);
  std::vector<float> sinks(static_cast<std::size_t>(threads) * 64);
  std::vector<double> operations(static_cast<std::size_t>(threads));
  double best = 0;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  while (Clock::now() < end) {
    const auto start = Clock::now();
    team.RunOnAll([&](int worker) {
      sinks[static_cast<std::size_t>(worker) * 64] = 0.5f;
      operations[worker] = HWY_DYNAMIC_DISPATCH(FmaLoopTarget)(
          2'000'000, &sinks[static_cast<std::size_t>(worker) * 64]);
    });
    const double elapsed = std::chrono::duration<double>(Clock::now() - start).count();
    double total = 0;
    for (const double one : operations) total += one;
    best = std::max(best, total / elapsed * 1e-9);
  }
  return best;
}

}  // namespace siglip
#endif  // HWY_ONCE
