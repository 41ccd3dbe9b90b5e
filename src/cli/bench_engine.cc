// `siglip bench engine`: seconds per item of one tower.

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "checkpoint/config.h"
#include "cli/bench.h"
#include "cli/model_flags.h"
#include "cli/report.h"
#include "kernels/fma_peak.h"

namespace siglip::cli {
namespace {

struct BenchEngineFlags {
  ModelFlags model;
  std::string tower = "vision";
  int batch = 1;
  double seconds = 5;
  bool json = false;
};

// config.json is a few kB; this only bounds a wrong file.
constexpr std::uint64_t kMaxConfigBytes = 1 << 20;
// Before and after the measurement: the clock is not steady.
constexpr double kPeakSeconds = 0.5;

// Nominal floating-point operations per item, 2 per multiply-add, without any algebraic saving: the
// figure that every implementation is compared by. Source: the layer shapes of transformers'
// SiglipModel.
double EncoderFlop(const TowerConfig& tower, double tokens) {
  const double width = static_cast<double>(tower.hidden_size);
  const double mlp = static_cast<double>(tower.intermediate_size);
  const double products = 2 * tokens * (4 * width * width + 2 * width * mlp);
  const double attention = 4 * tokens * tokens * width;
  return static_cast<double>(tower.num_hidden_layers) * (products + attention);
}

double VisionFlop(const VisionConfig& vision) {
  const double tokens = static_cast<double>(vision.num_patches());
  const double width = static_cast<double>(vision.hidden_size);
  const double patch = static_cast<double>(3 * vision.patch_size * vision.patch_size);
  return EncoderFlop(vision, tokens) + 2 * tokens * patch * width + 4 * tokens * width * width;
}

double TextFlop(const TextConfig& text) {
  return EncoderFlop(text, static_cast<double>(text.max_position_embeddings));
}

absl::StatusOr<SiglipConfig> ReadConfig(const std::string& directory) {
  const std::string path = directory + "/config.json";
  SIGLIP_ASSIGN_OR_RETURN(const std::string json, ReadFile(path, kMaxConfigBytes));
  return ParseSiglipConfig(json, path);
}

absl::StatusOr<Samples> MeasureTower(Model& model, const BenchEngineFlags& flags) {
  const std::size_t batch = static_cast<std::size_t>(flags.batch);
  const bool vision = flags.tower == "vision";
  const std::size_t side = static_cast<std::size_t>(model.info().image_size);
  const std::size_t item =
      vision ? 3 * side * side : static_cast<std::size_t>(model.info().text_length);
  std::mt19937 random(1);
  std::uniform_real_distribution<float> pixel(-1, 1);
  std::uniform_int_distribution<std::int64_t> token(0, model.info().vocab_size - 1);
  std::vector<float> pixels(vision ? batch * item : 0);
  std::vector<std::int64_t> ids(vision ? 0 : batch * item);
  for (float& value : pixels) value = pixel(random);
  for (std::int64_t& id : ids) id = token(random);
  std::vector<float> embeddings(batch * static_cast<std::size_t>(model.info().embedding_size));
  std::vector<const float*> images;
  std::vector<const std::int64_t*> texts;
  std::vector<float*> rows;
  for (std::size_t i = 0; i < batch; ++i) {
    if (vision) images.push_back(pixels.data() + i * item);
    if (!vision) texts.push_back(ids.data() + i * item);
    rows.push_back(embeddings.data() + i * static_cast<std::size_t>(model.info().embedding_size));
  }
  absl::Status status;
  const Samples samples = Measure(flags.seconds, [&] {
    const absl::Status run = vision ? model.EncodePixels(images, rows)
                                    : model.EncodeTokens(texts, model.info().text_length, rows);
    if (!run.ok()) status = run;
  });
  SIGLIP_RETURN_IF_ERROR(status);
  return samples;
}

absl::Status BenchEngine(const BenchEngineFlags& flags) {
  SIGLIP_ASSIGN_OR_RETURN(const SiglipConfig config, ReadConfig(flags.model.directory));
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                          Model::Open(flags.model.directory, flags.model.options));
  const int threads = flags.model.options.num_threads > 0
                          ? flags.model.options.num_threads
                          : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  double peak = MeasureFmaPeak(threads, kPeakSeconds);
  const double cpu_start = ProcessCpuSeconds();
  SIGLIP_ASSIGN_OR_RETURN(const Samples samples, MeasureTower(*model, flags));
  const double repetitions = static_cast<double>(samples.seconds.size() + 1);
  const double cpu_per_item =
      (ProcessCpuSeconds() - cpu_start) / (repetitions * static_cast<double>(flags.batch));
  const double flop = flags.tower == "vision" ? VisionFlop(config.vision) : TextFlop(config.text);
  peak = std::max(peak, MeasureFmaPeak(threads, kPeakSeconds));
  const double best = samples.Best() / flags.batch;
  const double median = samples.Median() / flags.batch;
  if (flags.json) {
    std::printf(
        "{\"tower\":\"%s\",\"batch\":%d,\"repetitions\":%zu,\"best_s_per_item\":%.6g,"
        "\"median_s_per_item\":%.6g,\"cpu_s_per_item\":%.6g,\"gflop_per_item\":%.4f,"
        "\"gflops\":%.2f,\"fma_peak_gflops\":%.2f,\"engine\":\"%s\"}\n",
        flags.tower.c_str(), flags.batch, samples.seconds.size(), best, median, cpu_per_item,
        flop * 1e-9, flop * 1e-9 / best, peak, model->info().engine.c_str());
    return absl::OkStatus();
  }
  std::printf("%s tower, batch %d, %s\n", flags.tower.c_str(), flags.batch,
              model->info().engine.c_str());
  std::printf("  best %.4f s/item, median %.4f s/item (%.2f items/s) over %zu runs\n", best, median,
              1 / median, samples.seconds.size());
  std::printf("  %.1f GFLOP per item: %.1f GFLOP/s, %.0f %% of the multiply-add peak measured now (%.1f)\n",
              flop * 1e-9, flop * 1e-9 / best, 100 * flop * 1e-9 / best / peak, peak);
  std::printf("  %.4f CPU-seconds per item\n", cpu_per_item);
  return absl::OkStatus();
}

}  // namespace

void AddBenchEngineCommand(CLI::App& bench, RunCommand& run) {
  auto flags = std::make_shared<BenchEngineFlags>();
  CLI::App* command = bench.add_subcommand("engine", "One tower on random inputs");
  AddModelFlags(*command, flags->model, true);
  command->add_option("--tower", flags->tower, "vision or text")
      ->check(CLI::IsMember({"vision", "text"}))
      ->capture_default_str();
  command->add_option("--batch", flags->batch, "Items per call")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--seconds", flags->seconds, "Measure at least so long")
      ->capture_default_str();
  command->add_flag("--json", flags->json, "One JSON object");
  command->callback([flags, &run] {
    run = [flags] {
      const absl::Status status = BenchEngine(*flags);
      return status.ok() ? static_cast<int>(kSuccess) : Fail(status);
    };
  });
}

}  // namespace siglip::cli
