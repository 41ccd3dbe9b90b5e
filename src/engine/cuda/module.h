#pragma once

// What the CUDA module, a shared library of its own (kModule), gives to the program. It needs
// NVIDIA's libraries, half a gigabyte of them; the program must run without. So it is loaded when a
// GPU is asked for.

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/checkpoint.h"
#include "engine/cuda/devices.h"
#include "engine/engine.h"

namespace siglip::cuda {

struct ModuleFunctions {
  const char* build;  // version and commit: what crosses the border are C++ types without a version
  absl::StatusOr<std::vector<GpuDevice>> (*list_devices)();
  absl::StatusOr<std::unique_ptr<Engine>> (*open_engine)(const Checkpoint& checkpoint,
                                                         const EngineOptions& options,
                                                         const std::vector<int>& gpus);
};

inline constexpr char kModule[] = "libsiglip_cuda.so";

// Name and type of the module's only entry.
inline constexpr char kModuleEntry[] = "siglip_cuda_functions";
using ModuleEntry = const ModuleFunctions* (*)();

// FailedPrecondition that says why no module was found: this build has none, or it is not where the
// program looks.
absl::Status MissingModule();

// The module stays loaded; loading it again only counts. FailedPrecondition if there is none, or it
// is of another build; Unavailable, with the loader's words, if a library that it needs is missing.
absl::StatusOr<const ModuleFunctions*> LoadModule();

}  // namespace siglip::cuda
