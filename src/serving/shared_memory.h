#pragma once

// Shared memory that clients register, POSIX's or a GPU's, to send and receive tensors without
// copying them over a socket. POSIX memory is read and written through the file, never through a
// mapping: a client that shrinks or changes its memory while we work can neither raise SIGBUS here
// nor change what was checked.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "serving/cuda_ipc.h"
#include "serving/request.h"
#include "serving/shared_bytes.h"

namespace siglip {

// Bytes of a registered region, as a request names them.
struct SharedMemorySlice {
  std::string region = {};
  std::uint64_t offset = 0;
  std::uint64_t byte_size = 0;
};

// Both kinds share one space of names; each has its own calls to list and forget them.
enum class SharedMemoryKind { kSystem, kCuda };

struct SharedMemoryRegion {
  std::string name = {};
  std::string key = {};  // kCuda: the cudaIpcMemHandle_t
  std::uint64_t offset = 0;
  std::uint64_t byte_size = 0;
  SharedMemoryKind kind = SharedMemoryKind::kSystem;
  std::int64_t device_id = 0;  // kCuda
};

struct SharedMemoryRules {
  bool allowed = false;
  std::uint64_t max_read_bytes = 0;  // of all slices that one request reads
  std::string key_prefix = {};       // of POSIX names; a slash at its beginning counts for nothing
  std::string cuda_library = "libcuda.so.1";  // loaded for the first region of a GPU
};

// Thread-safe.
class SharedMemoryRegions {
 public:
  explicit SharedMemoryRegions(SharedMemoryRules rules) : rules_(std::move(rules)) {}

  // Unimplemented unless client shared memory is allowed.
  absl::Status CheckAllowed() const;
  // InvalidArgument for a key that is no plain shared-memory name with the prefix (no handle of a
  // GPU's memory) or is not there, and for a range outside of it; AlreadyExists;
  // FailedPrecondition, with Triton's text, if it is a GPU's and no GPU serves here.
  absl::Status Register(const SharedMemoryRegion& region);
  // Empty name = all of the kind. What is not registered is no error.
  void Unregister(SharedMemoryKind kind, const std::string& name);
  // Sorted by name. Empty name = all of the kind; NotFound if the name is not one of them.
  absl::StatusOr<std::vector<SharedMemoryRegion>> Status(SharedMemoryKind kind,
                                                         const std::string& name) const;

  // A copy of the slice's bytes, aligned for any type. `read_bytes`: what the request has read.
  absl::StatusOr<std::shared_ptr<const std::vector<std::byte>>> Read(
      const SharedMemorySlice& slice, std::uint64_t read_bytes = 0) const;
  // InvalidArgument unless the slice lies within its region: told before there is an answer.
  absl::Status CheckSlice(const SharedMemorySlice& slice) const;
  // Internal, with both sizes, if `bytes` do not fit the slice.
  absl::Status Write(const SharedMemorySlice& slice, const OutputTensor& output) const;

 private:
  struct Entry {
    SharedMemoryRegion region;
    std::shared_ptr<const SharedBytes> bytes;
  };
  // AlreadyExists, or ResourceExhausted.
  absl::Status CheckRoomFor(const std::string& name) const;
  absl::Status CheckRoomForLocked(const std::string& name) const SIGLIP_REQUIRES(mu_);
  absl::StatusOr<Entry> Find(const SharedMemorySlice& slice) const;
  absl::StatusOr<std::shared_ptr<const SharedBytes>> OpenCuda(const SharedMemoryRegion& region);

  const SharedMemoryRules rules_;
  Mutex cuda_mu_;  // never held together with mu_
  std::shared_ptr<CudaIpc> cuda_ SIGLIP_GUARDED_BY(cuda_mu_);
  mutable Mutex mu_;
  std::map<std::string, Entry> regions_ SIGLIP_GUARDED_BY(mu_);
};

}  // namespace siglip
