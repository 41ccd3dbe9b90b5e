#pragma once

// cuDNN's fused attention, which has kernels per GPU that ours, portable over all, has not. It is a
// module of its own, libsiglip_cudnn.so beside this one, since it needs cuDNN, NVRTC and the driver
// to be there: whatever keeps it from loading, the engine runs with its own kernel.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/launch.h"

namespace siglip::cuda {

// Confined to one thread at a time.
class LibraryAttention {
 public:
  virtual ~LibraryAttention() = default;

  // Builds what launches of such a shape need, some 30 ms; the pointers are not looked at. An error
  // if the library has no kernel for it.
  virtual absl::Status Prepare(const AttentionLaunch& launch) = 0;
  // Bytes of scratch memory that what was prepared so far needs.
  virtual std::size_t workspace_bytes() const = 0;
  // REQUIRES: Prepare() of an equal shape was successful.
  virtual absl::Status Run(const AttentionLaunch& launch, void* workspace) = 0;
};

struct LibraryAttentionFunctions {
  const char* build;         // the program's version and commit: parts of two builds do not mix
  std::string (*version)();  // "cuDNN 9.19.0"
  // For the current device; `stream` is borrowed. Unavailable if cuDNN does not do.
  absl::StatusOr<std::unique_ptr<LibraryAttention>> (*open)(cudaStream_t stream);
};

// Name and type of the module's only entry.
inline constexpr char kLibraryAttentionEntry[] = "siglip_cudnn_functions";
using LibraryAttentionEntry = const LibraryAttentionFunctions* (*)();

// Unavailable with the reason if there is none, or one of another build. The module stays loaded.
absl::StatusOr<const LibraryAttentionFunctions*> LoadLibraryAttention();

}  // namespace siglip::cuda
