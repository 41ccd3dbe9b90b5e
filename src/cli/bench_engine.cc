// `siglip bench engine`: seconds per item of one tower.

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "checkpoint/config.h"
#include "cli/bench.h"
#include "cli/help_format.h"
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
  bool interactive = false;
  std::string raw_inputs;
};

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

// Of an image of `tokens` patches.
double VisionFlop(const VisionConfig& vision, double tokens) {
  const double width = static_cast<double>(vision.hidden_size);
  const double patch = static_cast<double>(3 * vision.patch_size * vision.patch_size);
  return EncoderFlop(vision, tokens) + 2 * tokens * patch * width + 4 * tokens * width * width;
}

double TextFlop(const TextConfig& text) {
  return EncoderFlop(text, static_cast<double>(text.max_position_embeddings));
}

// The image that is measured: of NaFlex as many patches as there may be, as square as they allow.
PatchGrid LargestGrid(const ModelInfo& info) {
  const std::int64_t side = info.image_size / info.patch_size;
  if (!info.naflex()) return {side, side};
  std::int64_t rows = 1;
  for (std::int64_t i = 1; i * i <= info.max_patches; ++i) {
    if (info.max_patches % i == 0) rows = i;
  }
  return {rows, info.max_patches / rows};
}

// A batch of inputs of one tower, and where its embeddings go.
class TowerBatch {
 public:
  // Random inputs.
  TowerBatch(Model& model, bool vision, std::size_t batch)
      : model_(model), vision_(vision), batch_(batch) {
    const std::size_t item =
        vision ? model.info().pixel_values() : static_cast<std::size_t>(model.info().text_length);
    const std::size_t width = static_cast<std::size_t>(model.info().embedding_size);
    std::mt19937 random(1);
    std::uniform_real_distribution<float> pixel(-1, 1);
    std::uniform_int_distribution<std::int64_t> token(0, model.info().vocab_size - 1);
    pixels_.resize(vision ? batch * item : 0);
    ids_.resize(vision ? 0 : batch * item);
    for (float& value : pixels_) value = pixel(random);
    for (std::int64_t& id : ids_) id = token(random);
    embeddings_.resize(batch * width);
    for (std::size_t i = 0; i < batch; ++i) {
      if (vision) images_.push_back({pixels_.data() + i * item, LargestGrid(model.info())});
      if (!vision) texts_.push_back(ids_.data() + i * item);
      rows_.push_back(embeddings_.data() + i * width);
    }
  }

  // Replaces the inputs by those of a file without a head.
  absl::Status Read(const std::string& path) {
    std::span<char> to = vision_ ? Bytes(pixels_) : Bytes(ids_);
    SIGLIP_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, to.size()));
    if (bytes.size() != to.size()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": expected ", to.size(), " bytes for ",
                                                     batch_, " inputs, got ", bytes.size()));
    }
    std::copy(bytes.begin(), bytes.end(), to.begin());
    return absl::OkStatus();
  }

  absl::Status Run() {
    return vision_ ? model_.EncodePixels(images_, rows_)
                   : model_.EncodeTokens(texts_, model_.info().text_length, rows_);
  }

  std::string_view embedding_bytes() {
    const std::span<char> bytes = Bytes(embeddings_);
    return {bytes.data(), bytes.size()};
  }

 private:
  template <class T>
  static std::span<char> Bytes(std::vector<T>& values) {
    return {reinterpret_cast<char*>(values.data()), values.size() * sizeof(T)};
  }

  Model& model_;
  const bool vision_;
  const std::size_t batch_;
  std::vector<float> pixels_;
  std::vector<std::int64_t> ids_;
  std::vector<float> embeddings_;
  std::vector<ImagePixels> images_;
  std::vector<const std::int64_t*> texts_;
  std::vector<float*> rows_;
};

absl::StatusOr<TowerBatch> MakeBatch(Model& model, const BenchEngineFlags& flags) {
  TowerBatch batch(model, flags.tower == "vision", static_cast<std::size_t>(flags.batch));
  if (!flags.raw_inputs.empty()) SIGLIP_RETURN_IF_ERROR(batch.Read(flags.raw_inputs));
  return batch;
}

absl::StatusOr<Samples> MeasureTower(TowerBatch& batch, double seconds) {
  absl::Status status;
  const Samples samples = Measure(seconds, [&] {
    const absl::Status run = batch.Run();
    if (!run.ok()) status = run;
  });
  SIGLIP_RETURN_IF_ERROR(status);
  return samples;
}

int Threads(const BenchEngineFlags& flags) {
  return flags.model.options.num_threads > 0
             ? flags.model.options.num_threads
             : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

// One answer for each line of standard input, for a program that lets several engines take turns.
absl::Status Interact(TowerBatch& batch, int threads, double flop) {
  SIGLIP_RETURN_IF_ERROR(batch.Run());
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "run") {
      const double start = NowSeconds();
      SIGLIP_RETURN_IF_ERROR(batch.Run());
      std::cout << absl::StrFormat("%.6f", NowSeconds() - start) << std::endl;
    } else if (line == "peak") {
      std::cout << absl::StrFormat("%.3f", MeasureFmaPeak(threads, kPeakSeconds)) << std::endl;
    } else if (line == "flop") {
      std::cout << absl::StrFormat("%.0f", flop) << std::endl;
    } else if (line.starts_with("outputs ")) {
      SIGLIP_RETURN_IF_ERROR(batch.Run());
      SIGLIP_RETURN_IF_ERROR(WriteFileAtomically(line.substr(8), batch.embedding_bytes()));
      std::cout << "saved" << std::endl;
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "standard input: expected run, peak, flop or outputs FILE, got '", line, "'"));
    }
  }
  return absl::OkStatus();
}

absl::Status BenchEngine(const BenchEngineFlags& flags) {
  SIGLIP_ASSIGN_OR_RETURN(const SiglipConfig config, ReadSiglipConfig(flags.model.directory));
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model,
                          Model::Open(flags.model.directory, flags.model.options));
  SIGLIP_ASSIGN_OR_RETURN(TowerBatch batch, MakeBatch(*model, flags));
  const int threads = Threads(flags);
  const PatchGrid grid = LargestGrid(model->info());
  const double flop = flags.tower == "vision"
                          ? VisionFlop(config.vision, static_cast<double>(grid.rows * grid.columns))
                          : TextFlop(config.text);
  if (flags.interactive) return Interact(batch, threads, flop);
  double peak = MeasureFmaPeak(threads, kPeakSeconds);
  const double cpu_start = ProcessCpuSeconds();
  SIGLIP_ASSIGN_OR_RETURN(const Samples samples, MeasureTower(batch, flags.seconds));
  const double repetitions = static_cast<double>(samples.seconds.size() + 1);
  const double cpu_per_item =
      (ProcessCpuSeconds() - cpu_start) / (repetitions * static_cast<double>(flags.batch));
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
  std::printf(
      "  %.1f GFLOP per item: %.1f GFLOP/s, %.0f %% of the multiply-add peak measured now (%.1f)\n",
      flop * 1e-9, flop * 1e-9 / best, 100 * flop * 1e-9 / best / peak, peak);
  std::printf("  %.4f CPU-seconds per item\n", cpu_per_item);
  return absl::OkStatus();
}

}  // namespace

void AddBenchEngineCommand(CLI::App& bench, RunCommand& run) {
  auto flags = std::make_shared<BenchEngineFlags>();
  CLI::App* command = bench.add_subcommand("engine", "One tower on random inputs");
  BeginGroup(*command, "Measurement");
  command->add_option("--tower", flags->tower, "vision or text")
      ->check(CLI::IsMember({"vision", "text"}))
      ->capture_default_str();
  command->add_option("--batch", flags->batch, "Items per call")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--seconds", flags->seconds, "Measure at least so many seconds")
      ->check(BenchSeconds())
      ->capture_default_str();
  command->add_flag("--json", flags->json, "One JSON object");
  command
      ->add_option("--raw-inputs", flags->raw_inputs,
                   "File of float32 pixels [batch,3,S,S] (NaFlex: [batch,N,p*p*3]) or int64 ids "
                   "[batch,T] without a head; default: random")
      ->type_name("FILE");
  command->add_flag("--interactive", flags->interactive,
                    "Read lines: `run` prints seconds, `peak` the multiply-add GFLOP/s, "
                    "`flop` the nominal operations per item, `outputs FILE` writes float32 "
                    "embeddings");
  AddModelFlags(*command, flags->model, true);
  command->callback([flags, &run] {
    run = [flags] {
      const absl::Status status = BenchEngine(*flags);
      return status.ok() ? static_cast<int>(kSuccess) : Fail(status);
    };
  });
}

}  // namespace siglip::cli
