#pragma once

// What the stand-ins of the CUDA runtime and of cuBLASLt share.

#include <cuda_runtime_api.h>

#include <cstddef>

namespace siglip::cuda::emulation {

int CurrentDevice();
// Ends the program unless all these bytes are memory of the current device.
void DemandDeviceMemory(const void* address, std::size_t bytes);

}  // namespace siglip::cuda::emulation
