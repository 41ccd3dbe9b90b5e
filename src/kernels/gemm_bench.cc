// Products at the shapes of siglip-so400m-patch14-384, as GFLOP/s beside the roof.

#include <benchmark/benchmark.h>

#include <vector>

#include "kernels/fma_peak.h"
#include "kernels/gemm.h"
#include "kernels/kernel_test_util.h"

namespace siglip {
namespace {

void BM_FmaPeak(benchmark::State& state) {
  double peak = 0;
  for (auto _ : state) peak = MeasureFmaPeak(static_cast<int>(state.range(0)), 1);
  state.counters["GFLOPs"] = peak;
}
BENCHMARK(BM_FmaPeak)->Arg(1)->Arg(2)->Iterations(1)->UseRealTime();

void BM_Gemm(benchmark::State& state) {
  const std::int64_t m = state.range(0);
  const std::int64_t n = state.range(1);
  const std::int64_t k = state.range(2);
  const int threads = static_cast<int>(state.range(3));
  ThreadTeam team(threads);
  AlignedBuffer<float> scratch(GemmScratchFloats(m, k));
  PackedMatrix w(n, k);
  const std::vector<float> rows = RandomFloats(k, 1, 0.03f);
  for (std::int64_t i = 0; i < n; ++i) w.SetRows(i, 1, rows.data());
  const std::vector<float> a = RandomFloats(m * k, 2);
  const std::vector<float> bias(static_cast<std::size_t>(n));
  std::vector<float> c(static_cast<std::size_t>(m * n));
  GemmCall call;
  call.m = m;
  call.a = a.data();
  call.a_stride = k;
  call.w = &w;
  call.c = c.data();
  call.c_stride = n;
  call.bias = bias.data();
  call.gelu = n == 4304;
  for (auto _ : state) Gemm(team, call, scratch.data());
  state.counters["GFLOPs"] = benchmark::Counter(2e-9 * static_cast<double>(m * n * k),
                                                benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(BM_Gemm)
    ->ArgNames({"m", "n", "k", "threads"})
    ->ArgsProduct({{729}, {1152}, {588, 1152, 4304}, {1, 2}})
    ->ArgsProduct({{729}, {3456, 4304}, {1152}, {1, 2}})
    ->ArgsProduct({{64, 1}, {4304}, {1152}, {2}})
    ->UseRealTime();

}  // namespace
}  // namespace siglip

BENCHMARK_MAIN();
