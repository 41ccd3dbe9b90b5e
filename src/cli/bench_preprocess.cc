// `siglip bench preprocess`: decoding, resizing and normalising of image files held in memory.

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "cli/bench.h"
#include "cli/image_files.h"
#include "cli/report.h"
#include "image/preprocess.h"

namespace siglip::cli {
namespace {

struct BenchPreprocessFlags {
  std::vector<std::string> paths;
  int image_size = 384;
  int resample = 3;
  int threads = 1;
  double seconds = 3;
  bool json = false;
};

// Seconds of each stage, summed over the files of a pass.
struct StageSeconds {
  double decode = 0, resize = 0, normalize = 0;
};

StageSeconds Least(const StageSeconds& a, const StageSeconds& b) {
  return {std::min(a.decode, b.decode), std::min(a.resize, b.resize),
          std::min(a.normalize, b.normalize)};
}

absl::StatusOr<StageSeconds> StagesOfPass(const Preprocessor& preprocessor,
                                          const std::vector<std::string>& images,
                                          std::vector<float>& pixels) {
  StageSeconds sum;
  for (const std::string& bytes : images) {
    const double start = NowSeconds();
    SIGLIP_ASSIGN_OR_RETURN(const RgbImage decoded,
                            DecodeRgb(bytes, preprocessor.options().max_pixels));
    const double decode_end = NowSeconds();
    SIGLIP_ASSIGN_OR_RETURN(const RgbImage resized, preprocessor.Resize(decoded));
    const double resize_end = NowSeconds();
    preprocessor.Normalize(resized, pixels.data());
    sum.decode += decode_end - start;
    sum.resize += resize_end - decode_end;
    sum.normalize += NowSeconds() - resize_end;
  }
  return sum;
}

// The least of each stage over passes of at least `min_seconds` together.
absl::StatusOr<StageSeconds> TimeStages(const Preprocessor& preprocessor,
                                        const std::vector<std::string>& images,
                                        std::vector<float>& pixels, double min_seconds) {
  const double start = NowSeconds();
  SIGLIP_ASSIGN_OR_RETURN(StageSeconds least, StagesOfPass(preprocessor, images, pixels));
  while (NowSeconds() - start < min_seconds) {
    SIGLIP_ASSIGN_OR_RETURN(const StageSeconds pass, StagesOfPass(preprocessor, images, pixels));
    least = Least(least, pass);
  }
  return least;
}

absl::Status BenchPreprocess(const BenchPreprocessFlags& flags) {
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::string> files, ExpandImagePaths(flags.paths));
  if (files.empty()) return absl::InvalidArgumentError("no image files found");
  std::vector<std::string> images;
  for (const std::string& path : files) {
    SIGLIP_ASSIGN_OR_RETURN(std::string bytes, ReadFile(path, kMaxImageBytes));
    images.push_back(std::move(bytes));
  }
  PreprocessOptions options;
  options.image_size = flags.image_size;
  options.resample = static_cast<Resample>(flags.resample);
  const Preprocessor preprocessor(options);
  const std::size_t side = static_cast<std::size_t>(flags.image_size);
  std::vector<std::vector<float>> pixels(static_cast<std::size_t>(flags.threads));
  for (std::vector<float>& buffer : pixels) buffer.resize(3 * side * side);

  for (std::size_t i = 0; i < images.size(); ++i) {
    const absl::Status status = preprocessor.Preprocess(images[i], pixels[0].data()).status();
    if (status.ok()) continue;
    return absl::Status(status.code(), absl::StrCat(files[i], ": ", status.message()));
  }
  ThreadTeam team(flags.threads);
  const Samples samples = Measure(flags.seconds, [&] {
    std::atomic<std::size_t> next{0};
    team.RunOnAll([&](int worker) {
      for (std::size_t i = next++; i < images.size(); i = next++) {
        // None fails that did not above.
        preprocessor.Preprocess(images[i], pixels[static_cast<std::size_t>(worker)].data())
            .status()
            .IgnoreError();
      }
    });
  });
  SIGLIP_ASSIGN_OR_RETURN(const StageSeconds stages,
                          TimeStages(preprocessor, images, pixels[0], flags.seconds));
  const double count = static_cast<double>(images.size());
  const char* format =
      flags.json
          ? "{\"images\":%zu,\"threads\":%d,\"best_ms\":%.4f,\"median_ms\":%.4f,"
            "\"images_per_s\":%.2f,\"decode_ms\":%.4f,\"resize_ms\":%.4f,\"normalize_ms\":%.4f}\n"
          : "%zu images, %d threads: best %.3f ms, median %.3f ms per image (%.1f images/s)\n"
            "  one thread, best of each: decode %.3f ms, resize %.3f ms, normalize %.3f ms\n";
  std::printf(format, images.size(), flags.threads, 1e3 * samples.Best() / count,
              1e3 * samples.Median() / count, count / samples.Median(), 1e3 * stages.decode / count,
              1e3 * stages.resize / count, 1e3 * stages.normalize / count);
  return absl::OkStatus();
}

}  // namespace

void AddBenchPreprocessCommand(CLI::App& bench, RunCommand& run) {
  auto flags = std::make_shared<BenchPreprocessFlags>();
  CLI::App* command = bench.add_subcommand("preprocess", "Image files -> [3,S,S], from memory");
  command->add_option("paths", flags->paths, "Image files and folders")->required();
  command->add_option("--size", flags->image_size, "S, the side of the result in pixels")
      ->check(CLI::Range(1, 8192))
      ->capture_default_str();
  command->add_option("--resample", flags->resample, "2 bilinear, 3 bicubic")
      ->check(CLI::IsMember({2, 3}))
      ->capture_default_str();
  command->add_option("--threads", flags->threads, "Images side by side")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      ->add_option("--seconds", flags->seconds,
                   "Measure the whole, and then the stages, at least so many seconds each")
      ->check(BenchSeconds())
      ->capture_default_str();
  command->add_flag("--json", flags->json, "One JSON object");
  command->callback([flags, &run] {
    run = [flags] {
      const absl::Status status = BenchPreprocess(*flags);
      return status.ok() ? static_cast<int>(kSuccess) : Fail(status);
    };
  });
}

}  // namespace siglip::cli
