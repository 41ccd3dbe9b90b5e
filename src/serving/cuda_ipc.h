#pragma once

// Memory of NVIDIA GPUs that another process on this machine has allocated and tells of by a handle
// (CUDA IPC). The driver's library is looked for at run time: building needs nothing of NVIDIA's.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "serving/shared_bytes.h"

namespace siglip {

// Of a cudaIpcMemHandle_t.
inline constexpr std::size_t kCudaIpcHandleBytes = 64;

// Thread-safe. Uses the GPUs' primary contexts, those of the engine in this process, and streams of
// its own, so that no copy waits for the engine's work.
class CudaIpc : public std::enable_shared_from_this<CudaIpc> {
 public:
  // FailedPrecondition, with the reason, if `library`, a path or a name for dlopen, cannot be
  // loaded or started, or knows no GPU.
  static absl::StatusOr<std::shared_ptr<CudaIpc>> Load(const std::string& library = "libcuda.so.1");
  ~CudaIpc();
  CudaIpc(const CudaIpc&) = delete;
  CudaIpc& operator=(const CudaIpc&) = delete;

  // What the handle's memory has from its first byte on. InvalidArgument for a handle of another
  // size, one that the driver does not take (CUDA takes none of the own process), and a GPU that
  // is not there.
  absl::StatusOr<std::shared_ptr<const SharedBytes>> Open(std::string_view handle,
                                                          std::int64_t device);

 private:
  struct Driver;
  struct Device;
  class Memory;
  explicit CudaIpc(std::unique_ptr<const Driver> driver);

  const std::unique_ptr<const Driver> driver_;
  const std::unique_ptr<Device[]> devices_;
};

}  // namespace siglip
