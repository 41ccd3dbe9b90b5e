#pragma once

// POSIX shared memory that clients register, to send and receive tensors without copying them over
// a socket. Bytes are read and written through the file, never through a mapping: a client that
// shrinks or changes its memory while we work can neither raise SIGBUS here nor change what was
// checked.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "serving/request.h"

namespace siglip {

// Bytes of a registered region, as a request names them.
struct SharedMemorySlice {
  std::string region = {};
  std::uint64_t offset = 0;
  std::uint64_t byte_size = 0;
};

struct SharedMemoryRegion {
  std::string name = {};
  std::string key = {};
  std::uint64_t offset = 0;
  std::uint64_t byte_size = 0;
};

// Thread-safe.
class SharedMemoryRegions {
 public:
  // A slice is read only if it has at most `max_read_bytes`.
  SharedMemoryRegions(bool allowed, std::uint64_t max_read_bytes)
      : allowed_(allowed), max_read_bytes_(max_read_bytes) {}

  // Unimplemented unless client shared memory is allowed.
  absl::Status CheckAllowed() const;
  // InvalidArgument for a key that is no plain shared-memory name or is not there, and for a range
  // outside of it; AlreadyExists.
  absl::Status Register(const SharedMemoryRegion& region);
  // Empty name = all. What is not registered is no error.
  void Unregister(const std::string& name);
  // Sorted by name. Empty name = all; NotFound if the name is not registered.
  absl::StatusOr<std::vector<SharedMemoryRegion>> Status(const std::string& name) const;

  // A copy of the slice's bytes, aligned for any type.
  absl::StatusOr<std::shared_ptr<const std::vector<std::byte>>> Read(
      const SharedMemorySlice& slice) const;
  // InvalidArgument unless the slice lies within its region: told before there is an answer.
  absl::Status CheckSlice(const SharedMemorySlice& slice) const;
  // Internal, with both sizes, if `bytes` do not fit the slice.
  absl::Status Write(const SharedMemorySlice& slice, const OutputTensor& output) const;

 private:
  class File;
  struct Entry {
    SharedMemoryRegion region;
    std::shared_ptr<const File> file;
  };
  absl::StatusOr<Entry> Find(const SharedMemorySlice& slice) const;

  const bool allowed_;
  const std::uint64_t max_read_bytes_;
  mutable Mutex mu_;
  std::map<std::string, Entry> regions_ SIGLIP_GUARDED_BY(mu_);
};

// What Triton answers where no GPU serves.
std::string CudaSharedMemoryText(const std::string& name);

}  // namespace siglip
