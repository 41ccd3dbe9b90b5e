#include "engine/engine.h"

#include <algorithm>
#include <memory>
#include <new>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "engine/cpu_engine.h"
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
  if (isa != "auto" && isa != KernelTargetName()) {
    if (bound) {
      return absl::InvalidArgumentError(
          absl::StrCat("isa: this process already uses ", KernelTargetName(), ", got ", isa));
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

GemmFormat FormatOf(Precision precision) {
  return precision == Precision::kFp32 ? GemmFormat::kFp32 : GemmFormat::kInt16;
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
absl::StatusOr<LoadedTowers> MapOrPackTowers(const Checkpoint& checkpoint,
                                             const EngineOptions& options, ThreadTeam& team) {
  const GemmFormat format = FormatOf(options.precision);
  SIGLIP_ASSIGN_OR_RETURN(WeightCache cache,
                          WeightCache::Open(options.cache_dir, checkpoint, format, team));
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

LoadedTowers OpenTowers(const Checkpoint& checkpoint, const EngineOptions& options) {
  ThreadTeam team(options.num_threads);
  if (!options.cache_dir.empty()) {
    absl::StatusOr<LoadedTowers> towers = MapOrPackTowers(checkpoint, options, team);
    if (towers.ok()) return *std::move(towers);
    SIGLIP_LOG_WARN("weights cache=unusable, packing in memory error=\"{}\"",
                    LogSafe(std::string(towers.status().message())));
  }
  WeightLoader weights(checkpoint, team);
  return LoadTowers(weights, FormatOf(options.precision));
}

}  // namespace

std::string PrecisionName(Precision precision) {
  return precision == Precision::kFp32 ? "fp32" : "int16";
}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Open(const Checkpoint& checkpoint,
                                                     const EngineOptions& options) {
  absl::Status status = CheckRange("num_threads", options.num_threads, 0, kMaxThreads);
  status.Update(CheckRange("max_batch_size", options.max_batch_size, 1, kMaxBatchSize));
  if (status.ok()) status = SelectInstructionSet(options.isa);
  if (!status.ok()) return status;
  EngineOptions resolved = options;
  if (resolved.num_threads == 0) {
    resolved.num_threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }
  try {
    return std::make_unique<CpuEngine>(OpenTowers(checkpoint, resolved), checkpoint.config().text,
                                       resolved);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("engine: no memory for the weights of ", checkpoint.directory()));
  }
}

}  // namespace siglip
