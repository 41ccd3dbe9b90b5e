#pragma once

// Owners of what the CUDA runtime hands out, and its errors as statuses. All of it belongs to the
// device that was current when it was made. Thread-compatible.

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace siglip::cuda {

// ResourceExhausted for a lack of memory, Internal for everything else.
inline absl::Status Checked(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  static_cast<void>(cudaGetLastError());  // else the next launch of a kernel would be told it
  const std::string message =
      absl::StrCat("CUDA: ", std::string(what), ": ", cudaGetErrorString(error));
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(message)
                                            : absl::InternalError(message);
}
inline absl::Status Checked(cublasStatus_t status, std::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("cuBLASLt: ", std::string(what), ": ", cublasLtGetStatusString(status)));
}

// Whether this process has a context of its own there already. True if the driver does not tell.
bool HasContext(int ordinal);

// The thread's current device for as long as it lives: a caller that uses CUDA too has its own back
// afterwards. But a device without a context is not made current again, as that would make one:
// half a gigabyte on GPU 0 for each process that uses another, or an error if it is taken.
class CurrentDevice {
 public:
  explicit CurrentDevice(int ordinal) : ordinal_(ordinal) {
    if (cudaGetDevice(&before_) != cudaSuccess) before_ = -1;
    result_ = cudaSetDevice(ordinal);
  }
  ~CurrentDevice() {
    if (before_ < 0 || before_ == ordinal_ || !HasContext(before_)) return;
    static_cast<void>(Checked(cudaSetDevice(before_), "the device before"));
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

  cudaError_t result() const { return result_; }

 private:
  const int ordinal_;
  int before_ = -1;
  cudaError_t result_ = cudaSuccess;
};

// A handle that is a pointer, freed by kFree.
template <auto kFree>
struct Freed {
  template <class T>
  void operator()(T* handle) const {
    static_cast<void>(kFree(handle));
  }
};
using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Freed<cudaStreamDestroy>>;
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, Freed<cudaEventDestroy>>;
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, Freed<cudaGraphDestroy>>;
using GraphExec =
    std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Freed<cudaGraphExecDestroy>>;
using LtHandle = std::unique_ptr<std::remove_pointer_t<cublasLtHandle_t>, Freed<cublasLtDestroy>>;
using LtMatmul =
    std::unique_ptr<std::remove_pointer_t<cublasLtMatmulDesc_t>, Freed<cublasLtMatmulDescDestroy>>;
using LtLayout = std::unique_ptr<std::remove_pointer_t<cublasLtMatrixLayout_t>,
                                 Freed<cublasLtMatrixLayoutDestroy>>;
using LtPreference = std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>,
                                     Freed<cublasLtMatmulPreferenceDestroy>>;

// cudaFree and cudaFreeHost are overloaded in C++.
struct FreeDevice {
  void operator()(std::byte* memory) const { static_cast<void>(cudaFree(memory)); }
};
struct FreePinned {
  void operator()(std::byte* memory) const { static_cast<void>(cudaFreeHost(memory)); }
};
using DeviceMemory = std::unique_ptr<std::byte, FreeDevice>;
using PinnedMemory = std::unique_ptr<std::byte, FreePinned>;

// what: for the message.
absl::StatusOr<DeviceMemory> AllocateDevice(std::size_t bytes, std::string_view what);
absl::StatusOr<PinnedMemory> AllocatePinned(std::size_t bytes, std::string_view what);
absl::StatusOr<Stream> MakeStream();
// Its kernels get the next free multiprocessor, before those of other streams that wait.
absl::StatusOr<Stream> MakeUrgentStream();
// Waiting for it sleeps. timing: what cudaEventElapsedTime needs.
absl::StatusOr<Event> MakeEvent(bool timing = false);

}  // namespace siglip::cuda
