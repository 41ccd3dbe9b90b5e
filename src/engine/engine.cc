#include "engine/engine.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/content_hash.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "engine/cpu_engine.h"
#include "engine/cuda/device_flag.h"
#include "engine/cuda/module.h"
#include "engine/cuda/plan.h"
#include "engine/device_check.h"
#include "engine/precision_check.h"
#include "engine/weight_cache.h"
#include "engine/weights.h"
#include "kernels/target.h"

namespace siglip {
namespace {

// More than any machine has; only bounds a wrong flag.
constexpr int kMaxThreads = 4096;
constexpr int kMaxBatchSize = 65536;

absl::Status CheckRange(const char* what, int value, int min, int max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("engine: expected ", what, " from ", min, " to ", max, ", got ", value));
}

// The first engine's weights are packed for its instruction set; the others have to follow.
absl::Status SelectInstructionSet(const std::string& isa) {
  static Mutex mu;
  static bool bound SIGLIP_GUARDED_BY(mu) = false;
  MutexLock lock(mu);
  const std::string in_use = KernelTargetName();  // chooses it, if nobody has yet
  if (isa != "auto" && isa != in_use) {
    if (bound) {
      return absl::InvalidArgumentError(
          absl::StrCat("isa: this process already uses ", in_use, ", got ", isa));
    }
    const std::string here = absl::StrJoin(KernelTargets(), ", ");
    if (!SelectKernelTarget(isa)) {
      return absl::InvalidArgumentError(
          absl::StrCat("isa: expected auto or one of ", here, " on this machine, got ", isa));
    }
  }
  bound = true;
  return absl::OkStatus();
}

absl::Status CheckPrecision(const DeviceChoice& device, Precision precision) {
  const bool cuda = device.kind == DeviceChoice::Kind::kCuda;
  const bool of_gpu = precision == Precision::kBf16 || precision == Precision::kFp16 ||
                      precision == Precision::kFp8;
  const bool of_cpu = !of_gpu || precision == Precision::kBf16;
  if (cuda ? of_gpu : of_cpu) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("precision: expected ",
                   cuda ? "bf16, fp16 or fp8 on a GPU" : "auto, fp32, int16, int8 or bf16 on a CPU",
                   ", got ", PrecisionName(precision)));
}

absl::StatusOr<std::unique_ptr<Engine>> OpenGpus(const Checkpoint& checkpoint,
                                                 const EngineOptions& options,
                                                 const std::vector<int>& gpus) {
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<GpuDevice> devices, ListGpuDevices());
  for (const int gpu : gpus) {
    if (static_cast<std::size_t>(gpu) < devices.size()) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("expected a GPU of number ", gpu, ", got ", devices.size(), " GPUs here"));
  }
  SIGLIP_ASSIGN_OR_RETURN(const cuda::ModuleFunctions* module, cuda::LoadModule());
  return module->open_engine(checkpoint, options, gpus);
}

absl::StatusOr<std::unique_ptr<Engine>> OpenCpu(const Checkpoint& checkpoint,
                                                const EngineOptions& options);

absl::Status CheckGpus(const Checkpoint& checkpoint, const EngineOptions& options, int num_gpus,
                       Engine& device) {
  EngineOptions cpu = options;
  cpu.device = "cpu";
  cpu.precision = Precision::kFp32;
  cpu.max_batch_size = 1;
  cpu.cache_dir.clear();  // it would keep float32 weights that nobody else needs
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> reference, OpenCpu(checkpoint, cpu));
  SIGLIP_ASSIGN_OR_RETURN(
      const std::string measured,
      CheckDevice(checkpoint, options.precision, options.example_text, device, num_gpus,
                  std::min(options.max_batch_size, cuda::kMaxBatchItems), *reference));
  SIGLIP_LOG_INFO("gpu self-check passed: {}", measured);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Engine>> OpenCuda(const Checkpoint& checkpoint,
                                                 const EngineOptions& options,
                                                 const std::vector<int>& gpus) {
  auto engine = OpenGpus(checkpoint, options, gpus);
  absl::Status status = engine.status();
  if (status.ok()) {
    status = CheckGpus(checkpoint, options, static_cast<int>(gpus.size()), **engine);
  }
  if (status.ok()) return engine;
  return absl::Status(status.code(),
                      absl::StrCat("device ", options.device, ": ", std::string(status.message())));
}

// Whether the instruction set in use has it.
absl::Status CheckFormat(Precision precision) {
  const GemmFormat format = FormatOf(precision);
  if (GemmHasFormat(format)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "precision: expected fp32 or int16", GemmHasFormat(GemmFormat::kInt8) ? " or int8" : "",
      " on ", KernelTargetName(), ", got ", PrecisionName(precision), ", which needs ",
      format == GemmFormat::kInt8 ? "VNNI or AMX" : "AMX"));
}

void WarnUnusable(const absl::Status& status) {
  SIGLIP_LOG_WARN("weights cache=unusable, packing in memory error=\"{}\"",
                  LogSafe(std::string(status.message())));
}

// Beside the int16 weights that it is about. Another tokenizer pads otherwise.
std::string VerdictPath(const WeightCache& cache, std::span<const std::int64_t> example_text) {
  const std::uint64_t text = ContentHash(std::as_bytes(example_text));
  return std::filesystem::path(cache.path())
      .replace_extension(
          absl::StrCat(absl::Hex(text, absl::kZeroPad16), ".check", kPrecisionCheckVersion));
}

// Nothing if there is none that can be used.
std::optional<WeightCache> OpenCache(const Checkpoint& checkpoint, const EngineOptions& options,
                                     GemmFormat format, ThreadTeam& team) {
  if (options.cache_dir.empty()) return std::nullopt;
  absl::StatusOr<WeightCache> cache =
      WeightCache::Open(options.cache_dir, checkpoint, format, team);
  if (cache.ok()) return *std::move(cache);
  WarnUnusable(cache.status());
  return std::nullopt;
}

// Towers that borrow from the file in `cache`.
absl::StatusOr<LoadedTowers> MapTowers(WeightCache& cache, const Checkpoint& checkpoint,
                                       GemmFormat format, ThreadTeam& team) {
  SIGLIP_ASSIGN_OR_RETURN(WeightFile file, cache.Load(team));
  WeightLoader weights(checkpoint, team, file);
  LoadedTowers towers = LoadTowers(weights, format);
  SIGLIP_RETURN_IF_ERROR(file.status());
  towers.file = std::move(file);
  return towers;
}

// The same, after packing them into the file if there is none that can be used.
absl::StatusOr<LoadedTowers> MapOrPackTowers(WeightCache& cache, const Checkpoint& checkpoint,
                                             GemmFormat format, ThreadTeam& team) {
  absl::StatusOr<LoadedTowers> towers = MapTowers(cache, checkpoint, format, team);
  if (towers.ok()) {
    SIGLIP_LOG_INFO("weights cache=hit file={}", LogSafe(cache.path()));
    return towers;
  }
  if (!absl::IsNotFound(towers.status())) {
    SIGLIP_LOG_WARN("weights cache=refused, packing again error=\"{}\"",
                    LogSafe(std::string(towers.status().message())));
  }
  SIGLIP_RETURN_IF_ERROR(cache.Build(team, [&](WeightFileWriter& writer) {
    WeightLoader weights(checkpoint, team, writer);
    LoadTowers(weights, format);
  }));
  return MapTowers(cache, checkpoint, format, team);
}

LoadedTowers OpenTowers(std::optional<WeightCache>& cache, const Checkpoint& checkpoint,
                        GemmFormat format, ThreadTeam& team) {
  if (cache) {
    absl::StatusOr<LoadedTowers> towers = MapOrPackTowers(*cache, checkpoint, format, team);
    if (towers.ok()) return *std::move(towers);
    WarnUnusable(towers.status());
  }
  WeightLoader weights(checkpoint, team);
  return LoadTowers(weights, format);
}

// Towers of one precision, and why of that one.
struct ChosenTowers {
  LoadedTowers towers;
  Precision precision = Precision::kFp32;
  std::string choice;  // empty if it was asked for
};

ChosenTowers OpenAs(Precision precision, std::string choice, const Checkpoint& checkpoint,
                    const EngineOptions& options, ThreadTeam& team) {
  const GemmFormat format = FormatOf(precision);
  std::optional<WeightCache> cache = OpenCache(checkpoint, options, format, team);
  return {OpenTowers(cache, checkpoint, format, team), precision, std::move(choice)};
}

// int16 towers if they pass their check. What is left of them otherwise is the verdict.
std::variant<ChosenTowers, PrecisionVerdict> OpenInt16IfItPasses(const Checkpoint& checkpoint,
                                                                 const EngineOptions& options,
                                                                 ThreadTeam& team) {
  std::optional<WeightCache> cache = OpenCache(checkpoint, options, GemmFormat::kInt16, team);
  const std::string path = cache ? VerdictPath(*cache, options.example_text) : std::string();
  std::optional<PrecisionVerdict> verdict = cache ? ReadVerdict(path) : std::nullopt;
  if (verdict && !verdict->int16_passes) return *verdict;
  LoadedTowers towers = OpenTowers(cache, checkpoint, GemmFormat::kInt16, team);
  if (!verdict) {
    verdict = CheckInt16(checkpoint, towers, options.example_text, team.num_threads());
    if (cache) {
      const absl::Status status = WriteVerdict(path, *verdict);
      if (!status.ok()) WarnUnusable(status);
    }
  }
  if (!verdict->int16_passes) return *verdict;
  return ChosenTowers{std::move(towers), Precision::kInt16,
                      absl::StrCat("int16 (", verdict->reason, ")")};
}

ChosenTowers OpenAuto(const Checkpoint& checkpoint, const EngineOptions& options,
                      ThreadTeam& team) {
  const std::string isa = VectorTargetName();
  std::string choice = absl::StrCat("fp32 (int16 is not known to be faster on ", isa, ")");
  if (Int16IsFaster(isa)) {
    auto int16 = OpenInt16IfItPasses(checkpoint, options, team);
    if (auto* chosen = std::get_if<ChosenTowers>(&int16)) return std::move(*chosen);
    choice = absl::StrCat(
        "fp32 (int16 failed its self-check: ", std::get<PrecisionVerdict>(int16).reason, ")");
  }
  return OpenAs(Precision::kFp32, std::move(choice), checkpoint, options, team);
}

ChosenTowers OpenChosen(const Checkpoint& checkpoint, const EngineOptions& options) {
  ThreadTeam team(options.num_threads);
  if (options.precision == Precision::kAuto) return OpenAuto(checkpoint, options, team);
  return OpenAs(options.precision, {}, checkpoint, options, team);
}

absl::StatusOr<std::unique_ptr<Engine>> OpenCpu(const Checkpoint& checkpoint,
                                                const EngineOptions& options) {
  SIGLIP_RETURN_IF_ERROR(SelectInstructionSet(options.isa));
  SIGLIP_RETURN_IF_ERROR(CheckFormat(options.precision));
  EngineOptions resolved = options;
  if (resolved.num_threads == 0) {
    resolved.num_threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }
  try {
    ChosenTowers chosen = OpenChosen(checkpoint, resolved);
    if (!chosen.choice.empty()) SIGLIP_LOG_INFO("precision auto: {}", chosen.choice);
    resolved.precision = chosen.precision;
    return std::make_unique<CpuEngine>(std::move(chosen.towers), checkpoint.config().text, resolved,
                                       std::move(chosen.choice));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("engine: no memory for the weights of ", checkpoint.directory()));
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Open(const Checkpoint& checkpoint,
                                                     const EngineOptions& options) {
  absl::Status status = CheckRange("num_threads", options.num_threads, 0, kMaxThreads);
  status.Update(CheckRange("max_batch_size", options.max_batch_size, 1, kMaxBatchSize));
  if (!status.ok()) return status;
  SIGLIP_ASSIGN_OR_RETURN(const DeviceChoice device, ParseDevice(options.device));
  SIGLIP_RETURN_IF_ERROR(CheckPrecision(device, options.precision));
  if (options.gpu_resize && device.kind != DeviceChoice::Kind::kCuda) {
    return absl::InvalidArgumentError(
        absl::StrCat("gpu_resize: expected a GPU (--device cuda), got ", options.device));
  }
  if (checkpoint.config().vision.naflex()) {
    SIGLIP_RETURN_IF_ERROR(CheckRange("max_patches", options.max_patches, 1, kMaxPatches));
    if (device.kind == DeviceChoice::Kind::kCuda) {
      return absl::UnimplementedError(
          absl::StrCat("device ", options.device,
                       ": NaFlex checkpoints run on a CPU only: expected --device cpu"));
    }
  }
  if (device.kind == DeviceChoice::Kind::kCuda) return OpenCuda(checkpoint, options, device.gpus);
  return OpenCpu(checkpoint, options);
}

}  // namespace siglip
