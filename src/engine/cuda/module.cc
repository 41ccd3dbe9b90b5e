#include "engine/cuda/module.h"

#include <cuda_runtime_api.h>

#include "absl/strings/str_cat.h"
#include "engine/cuda/cuda_engine.h"

namespace siglip::cuda {
namespace {

absl::StatusOr<std::vector<GpuDevice>> ListDevices() {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  // A driver that is too old is a fault: ListGpuDevices has seen that there is one.
  if (error == cudaErrorNoDevice) return std::vector<GpuDevice>();
  std::vector<GpuDevice> devices;
  for (int i = 0; error == cudaSuccess && i < count; ++i) {
    cudaDeviceProp properties;
    error = cudaGetDeviceProperties(&properties, i);
    if (error != cudaSuccess) break;
    devices.push_back({.ordinal = i,
                       .name = properties.name,
                       .compute_capability = 10 * properties.major + properties.minor,
                       .memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem)});
  }
  if (error != cudaSuccess) {
    return absl::UnavailableError(absl::StrCat("CUDA: ", cudaGetErrorString(error)));
  }
  return devices;
}

}  // namespace
}  // namespace siglip::cuda

extern "C" __attribute__((visibility("default"))) const siglip::cuda::ModuleFunctions*
siglip_cuda_functions() {
  static constexpr siglip::cuda::ModuleFunctions kFunctions = {
      SIGLIP_BUILD, siglip::cuda::ListDevices, siglip::cuda::CudaEngine::Open};
  return &kFunctions;
}
