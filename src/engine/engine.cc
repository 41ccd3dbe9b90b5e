#include "engine/engine.h"

#include <algorithm>
#include <memory>
#include <new>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/mutex.h"
#include "engine/cpu_engine.h"
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
    return std::make_unique<CpuEngine>(checkpoint, resolved);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("engine: no memory for the weights of ", checkpoint.directory()));
  }
}

}  // namespace siglip
