#include "engine/cuda/handles.h"

#include <cuda.h>

#include "base/status_macros.h"

namespace siglip::cuda {

namespace {

// A function of the driver's, which is not linked; null if it has none of this name.
template <class Function>
Function DriverFunction(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  constexpr unsigned kCuda12 = 12000;
  if (cudaGetDriverEntryPointByVersion(name, &function, kCuda12, cudaEnableDefault, &found) !=
          cudaSuccess ||
      found != cudaDriverEntryPointSuccess) {
    static_cast<void>(cudaGetLastError());
    return nullptr;
  }
  return reinterpret_cast<Function>(function);
}

}  // namespace

bool HasContext(int ordinal) {
  static const auto get_device = DriverFunction<decltype(&cuDeviceGet)>("cuDeviceGet");
  static const auto get_state =
      DriverFunction<decltype(&cuDevicePrimaryCtxGetState)>("cuDevicePrimaryCtxGetState");
  CUdevice device = 0;
  unsigned flags = 0;
  int active = 0;
  if (get_device == nullptr || get_state == nullptr ||
      get_device(&device, ordinal) != CUDA_SUCCESS ||
      get_state(device, &flags, &active) != CUDA_SUCCESS) {
    return true;
  }
  return active != 0;
}

absl::StatusOr<DeviceMemory> AllocateDevice(std::size_t bytes, std::string_view what) {
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, bytes == 0 ? 1 : bytes);
  if (error == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    std::size_t free = 0, total = 0;
    static_cast<void>(cudaMemGetInfo(&free, &total));
    return absl::ResourceExhaustedError(absl::StrCat("GPU memory for ", std::string(what),
                                                     ": expected ", bytes, " free bytes, got ",
                                                     free, " of ", total));
  }
  SIGLIP_RETURN_IF_ERROR(Checked(error, what));
  return DeviceMemory(static_cast<std::byte*>(memory));
}

absl::StatusOr<PinnedMemory> AllocatePinned(std::size_t bytes, std::string_view what) {
  void* memory = nullptr;
  SIGLIP_RETURN_IF_ERROR(
      Checked(cudaHostAlloc(&memory, bytes == 0 ? 1 : bytes, cudaHostAllocDefault),
              absl::StrCat("pinned memory for ", std::string(what), ", ", bytes, " bytes")));
  return PinnedMemory(static_cast<std::byte*>(memory));
}

absl::StatusOr<Stream> MakeStream() {
  cudaStream_t stream = nullptr;
  SIGLIP_RETURN_IF_ERROR(
      Checked(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream"));
  return Stream(stream);
}

absl::StatusOr<Stream> MakeUrgentStream() {
  int least = 0, greatest = 0;
  SIGLIP_RETURN_IF_ERROR(
      Checked(cudaDeviceGetStreamPriorityRange(&least, &greatest), "priorities of streams"));
  cudaStream_t stream = nullptr;
  SIGLIP_RETURN_IF_ERROR(Checked(
      cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest), "making a stream"));
  return Stream(stream);
}

absl::StatusOr<Event> MakeEvent(bool timing) {
  cudaEvent_t event = nullptr;
  const unsigned flags = timing ? cudaEventDefault : cudaEventBlockingSync | cudaEventDisableTiming;
  SIGLIP_RETURN_IF_ERROR(Checked(cudaEventCreateWithFlags(&event, flags), "making an event"));
  return Event(event);
}

}  // namespace siglip::cuda
