// Products at the shapes of the published checkpoints, as GFLOP/s beside the two roofs:
// multiply-adds on registers and reading of memory. bench/cpu.py draws the roofline from it.
// SIGLIP_BENCH_ISA=avx512-vnni: on the kernels of that instruction set.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "kernels/fma_peak.h"
#include "kernels/gemm.h"
#include "kernels/kernel_test_util.h"
#include "kernels/target.h"

namespace siglip {
namespace {

const std::int64_t kAllThreads = std::max(1u, std::thread::hardware_concurrency());

void BM_FmaPeak(benchmark::State& state) {
  double peak = 0;
  for (auto _ : state) peak = MeasureFmaPeak(static_cast<int>(state.range(0)), 1);
  state.counters["GFLOPs"] = peak;
}
BENCHMARK(BM_FmaPeak)->Arg(1)->Arg(kAllThreads)->Iterations(1)->UseRealTime();

#if defined(__x86_64__)
// What int16 without VNNI can reach: its instructions on registers alone. Argument 0: vpmaddwd and
// vpaddd in turns. 1: the tile of Int16PairWinograd, which adds before it multiplies.
// clang-format off
#define SIGLIP_PAIRS(s0, s1)                     \
  "vpmaddwd %%ymm8, %%ymm9, %%ymm12\n\t"         \
  "vpmaddwd %%ymm8, %%ymm10, %%ymm13\n\t"        \
  "vpaddd %%ymm12, %%ymm" #s0 ", %%ymm" #s0 "\n\t" \
  "vpaddd %%ymm13, %%ymm" #s1 ", %%ymm" #s1 "\n\t"
#define SIGLIP_WINOGRAD(s0, s1)                  \
  "vpaddw %%ymm8, %%ymm9, %%ymm12\n\t"           \
  "vpaddw %%ymm10, %%ymm11, %%ymm13\n\t"         \
  "vpaddw %%ymm8, %%ymm10, %%ymm14\n\t"          \
  "vpaddw %%ymm9, %%ymm11, %%ymm15\n\t"          \
  "vpmaddwd %%ymm12, %%ymm13, %%ymm12\n\t"       \
  "vpmaddwd %%ymm14, %%ymm15, %%ymm13\n\t"       \
  "vpaddd %%ymm12, %%ymm" #s0 ", %%ymm" #s0 "\n\t" \
  "vpaddd %%ymm13, %%ymm" #s1 ", %%ymm" #s1 "\n\t"
#define SIGLIP_INT16_LOOP(DO)                                                                     \
  asm volatile("vzeroall\n.p2align 6\n1:\n\t" DO(0, 1) DO(2, 3) DO(4, 5) DO(6, 7)                 \
               "dec %0\n\tjnz 1b\n\tvzeroupper"                                                   \
               : "+r"(rounds) : : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",   \
               "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")
// clang-format on

void BM_Int16Registers(benchmark::State& state) {
  if (!__builtin_cpu_supports("avx2")) return state.SkipWithError("needs AVX2");
  constexpr std::int64_t kRounds = 100'000;
  const bool winograd = state.range(0) != 0;
  for (auto _ : state) {
    std::int64_t rounds = kRounds;
    if (winograd) {
      SIGLIP_INT16_LOOP(SIGLIP_WINOGRAD);
    } else {
      SIGLIP_INT16_LOOP(SIGLIP_PAIRS);
    }
  }
  // 8 vpmaddwd a round, each for 16 products and sums, or for 32.
  state.counters["GFLOPs"] = benchmark::Counter((winograd ? 64e-9 : 32e-9) * 8 * kRounds,
                                                benchmark::Counter::kIsIterationInvariantRate);
}
#undef SIGLIP_INT16_LOOP
#undef SIGLIP_WINOGRAD
#undef SIGLIP_PAIRS
BENCHMARK(BM_Int16Registers)->ArgName("winograd")->Arg(0)->Arg(1);
#endif

#if defined(__x86_64__)
// The same for int16 on AMX: the four products of a pair of tiles, registers alone.
void BM_Int16AmxRegisters(benchmark::State& state) {
  const std::vector<std::string> targets = KernelTargets();  // asks Linux for the use of tiles
  if (!std::any_of(targets.begin(), targets.end(),
                   [](const std::string& name) { return name.ends_with("-amx"); })) {
    return state.SkipWithError("needs AMX");
  }
  constexpr std::int64_t kRounds = 100'000;
  alignas(64) std::uint8_t config[64] = {1};  // palette; then eight tiles of 16 rows of 64 bytes
  for (int tile = 0; tile < 8; ++tile) {
    config[16 + 2 * tile] = 64;
    config[48 + tile] = 16;
  }
  for (auto _ : state) {
    std::int64_t rounds = kRounds;
    asm volatile(
        "ldtilecfg (%1)\n"
        "1:\n\t"
        "tdpbssd %%tmm6, %%tmm4, %%tmm0\n\t"
        "tdpbsud %%tmm7, %%tmm4, %%tmm1\n\t"
        "tdpbusd %%tmm6, %%tmm5, %%tmm2\n\t"
        "tdpbuud %%tmm7, %%tmm5, %%tmm3\n\t"
        "dec %0\n\tjnz 1b\n\ttilerelease"
        : "+r"(rounds)
        : "r"(config)
        : "cc", "memory");
  }
  state.counters["GFLOPs"] = benchmark::Counter(2e-9 * 16 * 16 * 64 * kRounds,
                                                benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(BM_Int16AmxRegisters);
#endif

// Reading far more than the caches hold.
void BM_MemoryRead(benchmark::State& state) {
  constexpr std::size_t kWords = std::size_t{32} << 20;  // 256 MB
  const int threads = static_cast<int>(state.range(0));
  ThreadTeam team(threads);
  const AlignedBuffer<std::uint64_t> words = [] {
    AlignedBuffer<std::uint64_t> filled(kWords);
    std::fill_n(filled.data(), kWords, 1);
    return filled;
  }();
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(threads));
  for (auto _ : state) {
    team.RunOnAll([&](int worker) {
      const std::size_t part = kWords / static_cast<std::size_t>(threads);
      const std::uint64_t* begin = words.data() + static_cast<std::size_t>(worker) * part;
      sums[static_cast<std::size_t>(worker)] =
          std::accumulate(begin, begin + part, std::uint64_t{0});
    });
    benchmark::DoNotOptimize(sums.data());
    benchmark::ClobberMemory();
  }
  state.counters["GBs"] = benchmark::Counter(8e-9 * static_cast<double>(kWords),
                                             benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(BM_MemoryRead)->Arg(1)->Arg(kAllThreads)->UseRealTime();

void Measure(benchmark::State& state, GemmFormat format) {
  const std::int64_t m = state.range(0);
  const std::int64_t n = state.range(1);
  const std::int64_t k = state.range(2);
  const int threads = static_cast<int>(state.range(3));
  ThreadTeam team(threads);
  AlignedBuffer<float> scratch(GemmScratchFloats(m, k));
  PackedMatrix w(n, k, format);
  const std::vector<float> rows = RandomFloats(k, 1, 0.03f);
  for (std::int64_t i = 0; i < n; ++i) w.SetRows(i, 1, rows.data());
  // In huge pages, as the engine has them.
  AlignedBuffer<float> a(static_cast<std::size_t>(m * k));
  AlignedBuffer<float> c(static_cast<std::size_t>(m * n));
  std::ranges::copy(RandomFloats(m * k, 2), a.data());
  const std::vector<float> bias(static_cast<std::size_t>(n));
  GemmCall call;
  call.m = m;
  call.a = a.data();
  call.a_stride = k;
  call.w = &w;
  call.c = c.data();
  call.c_stride = n;
  call.bias = bias.data();
  call.gelu = n > k && n != 3 * k;  // the first layer of an MLP
  for (auto _ : state) Gemm(team, call, scratch.data());
  state.counters["GFLOPs"] = benchmark::Counter(2e-9 * static_cast<double>(m * n * k),
                                                benchmark::Counter::kIsIterationInvariantRate);
}

void BM_Gemm(benchmark::State& state) { Measure(state, GemmFormat::kFp32); }
void BM_GemmInt16(benchmark::State& state) { Measure(state, GemmFormat::kInt16); }
void BM_GemmInt8(benchmark::State& state) {
  if (!GemmHasFormat(GemmFormat::kInt8)) return state.SkipWithError("needs VNNI or AMX");
  Measure(state, GemmFormat::kInt8);
}
void BM_GemmBf16(benchmark::State& state) {
  if (!GemmHasFormat(GemmFormat::kBf16)) return state.SkipWithError("needs AMX");
  Measure(state, GemmFormat::kBf16);
}

// Query, key and value in one product; attention's output; the two layers of the MLP.
void Layer(benchmark::internal::Benchmark* bench, std::int64_t rows, std::int64_t width,
           std::int64_t mlp) {
  for (const std::int64_t threads : {std::int64_t{1}, kAllThreads}) {
    bench->Args({rows, 3 * width, width, threads});
    bench->Args({rows, width, width, threads});
    bench->Args({rows, mlp, width, threads});
    bench->Args({rows, width, mlp, threads});
  }
}

void Shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"m", "n", "k", "threads"})->UseRealTime();
  Layer(bench, 729, 1152, 4304);      // so400m-patch14-384
  Layer(bench, 64, 1152, 4304);       // its text tower
  Layer(bench, 196, 768, 3072);       // base-patch16-224
  Layer(bench, 16 * 196, 768, 3072);  // 16 images of it
  Layer(bench, 256, 1024, 4096);      // large-patch16-256
}
BENCHMARK(BM_Gemm)
    ->Apply(Shapes)
    ->Args({729, 1152, 588, 1})  // patches of so400m
    ->Args({729, 1152, 588, kAllThreads})
    ->Args({1, 4304, 1152, kAllThreads});  // its pooling head

BENCHMARK(BM_GemmInt16)->Apply(Shapes);
BENCHMARK(BM_GemmInt8)->Apply(Shapes);
BENCHMARK(BM_GemmBf16)->Apply(Shapes);

}  // namespace
}  // namespace siglip

int main(int argc, char** argv) {
  const char* isa = std::getenv("SIGLIP_BENCH_ISA");
  if (isa != nullptr && !siglip::SelectKernelTarget(isa)) {
    std::fprintf(stderr, "gemm_bench: this machine has no %s\n", isa);
    return 2;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
