// `siglip bench knn`: the exact nearest-neighbour search beside the bare matrix product in it.

#include <sys/resource.h>

#include <cstdio>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/status_macros.h"
#include "cli/bench.h"
#include "cli/report.h"
#include "eval/nearest.h"
#include "kernels/gemm.h"

namespace siglip::cli {
namespace {

struct BenchKnnFlags {
  std::int64_t rows = 100'000;
  std::int64_t queries = 4096;
  std::int64_t width = 1152;
  int threads = 0;
  bool json = false;
};

std::vector<float> RandomRows(std::int64_t count, std::int64_t width, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> rows(static_cast<std::size_t>(count * width));
  for (float& value : rows) value = normal(random);
  return rows;
}

// Any number of different rows, made when they are read: sums of two rows of a small table.
class MadeRows final : public RowSource {
 public:
  MadeRows(std::int64_t rows, std::int64_t width)
      : rows_(rows), width_(width), table_(RandomRows(kTable, width, 1)) {}
  std::int64_t rows() const override { return rows_; }
  std::int64_t width() const override { return width_; }
  absl::Status Read(std::int64_t first, std::int64_t count, float* out) const override {
    for (std::int64_t row = first; row < first + count; ++row) {
      const float* a = table_.data() + row % kTable * width_;
      const float* b = table_.data() + (row / kTable * 5 + row + 1) % kTable * width_;
      for (std::int64_t i = 0; i < width_; ++i) *out++ = a[i] + 0.7f * b[i];
    }
    return absl::OkStatus();
  }

 private:
  static constexpr std::int64_t kTable = 2048;
  const std::int64_t rows_;
  const std::int64_t width_;
  const std::vector<float> table_;
};

struct Cost {
  double cpu_s = 0;
  double wall_s = 0;
};

template <class Work>
Cost Time(const Work& work) {
  const double cpu = ProcessCpuSeconds();
  const double wall = NowSeconds();
  work();
  return {ProcessCpuSeconds() - cpu, NowSeconds() - wall};
}

// The products of the search and nothing else: a quarter of them, times four.
Cost TimeProducts(ThreadTeam& team, const BenchKnnFlags& flags, const NearestOptions& options,
                  const std::vector<float>& queries) {
  const std::int64_t columns = std::min(flags.queries, options.query_block);
  PackedMatrix packed(columns, flags.width);
  packed.SetRows(0, columns, queries.data());
  const std::vector<float> a = RandomRows(options.train_block, flags.width, 3);
  AlignedBuffer<float> c(static_cast<std::size_t>(options.train_block * columns));
  AlignedBuffer<float> scratch(GemmScratchFloats(options.train_block, flags.width));
  GemmCall call;
  call.m = options.train_block;
  call.a = a.data();
  call.a_stride = flags.width;
  call.w = &packed;
  call.c = c.data();
  call.c_stride = columns;
  Gemm(team, call, scratch.data());
  const double products = static_cast<double>(flags.rows) * static_cast<double>(flags.queries) /
                          static_cast<double>(options.train_block * columns);
  const int measured = static_cast<int>(products / 4) + 1;
  Cost cost = Time([&] {
    for (int i = 0; i < measured; ++i) Gemm(team, call, scratch.data());
  });
  cost.cpu_s *= products / measured;
  cost.wall_s *= products / measured;
  return cost;
}

absl::Status BenchKnn(const BenchKnnFlags& flags) {
  ThreadTeam team(flags.threads > 0
                      ? flags.threads
                      : static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  const NearestOptions options;
  const MadeRows train(flags.rows, flags.width);
  const std::vector<float> queries = RandomRows(flags.queries, flags.width, 2);
  // Before and after the search: the clock is not steady.
  const Cost before = TimeProducts(team, flags, options, queries);
  absl::StatusOr<NearestRows> nearest = absl::UnknownError("not run");
  const Cost search = Time([&] { nearest = NearestByCosine(team, train, queries, options); });
  SIGLIP_RETURN_IF_ERROR(nearest.status());
  const Cost after = TimeProducts(team, flags, options, queries);

  const double products_cpu = (before.cpu_s + after.cpu_s) / 2;
  const double gflop = 2e-9 * static_cast<double>(flags.rows) * static_cast<double>(flags.queries) *
                       static_cast<double>(flags.width);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const char* format =
      flags.json
          ? "{\"rows\":%.0f,\"queries\":%.0f,\"width\":%.0f,\"wall_s\":%.3f,\"cpu_s\":%.3f,"
            "\"gflop_per_cpu_s\":%.1f,\"share_of_product_rate\":%.3f,\"measured_per_query\":%.1f,"
            "\"peak_mb\":%.0f}\n"
          : "%.0f training rows, %.0f queries, width %.0f: %.2f s, %.2f CPU-seconds\n"
            "  %.1f GFLOP per CPU-second, %.3f of the bare matrix product's\n"
            "  %.1f distances per query measured in float64; peak memory %.0f MB\n";
  std::printf(format, static_cast<double>(flags.rows), static_cast<double>(flags.queries),
              static_cast<double>(flags.width), search.wall_s, search.cpu_s, gflop / search.cpu_s,
              products_cpu / search.cpu_s,
              static_cast<double>(nearest->num_rescored) / static_cast<double>(flags.queries),
              static_cast<double>(usage.ru_maxrss) / 1024);
  return absl::OkStatus();
}

}  // namespace

void AddBenchKnnCommand(CLI::App& bench, RunCommand& run) {
  auto flags = std::make_shared<BenchKnnFlags>();
  CLI::App* command = bench.add_subcommand("knn", "The exact nearest-neighbour search of validate");
  command->add_option("--rows", flags->rows, "Training rows, made while they are read")
      ->check(CLI::Range(1, 4'000'000))
      ->capture_default_str();
  command->add_option("--queries", flags->queries, "Queries")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command->add_option("--width", flags->width, "Embedding width")
      ->check(CLI::Range(1, 65'536))
      ->capture_default_str();
  command->add_option("--threads", flags->threads, "Threads; 0 = one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "One JSON object");
  command->callback([flags, &run] {
    run = [flags] {
      const absl::Status status = BenchKnn(*flags);
      return status.ok() ? static_cast<int>(kSuccess) : Fail(status);
    };
  });
}

}  // namespace siglip::cli
