#pragma once

// Files as bytes: mapped read-only, or read whole up to a limit.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace siglip {

// A read-only private mapping of a whole regular file; symlinks are followed. Renaming or unlinking
// the file while it is mapped is harmless, truncating it makes later reads raise SIGBUS.
// Thread-safe once opened. Movable.
class FileMap {
 public:
  // NotFound, PermissionDenied or FailedPrecondition (not a regular file), naming the path.
  static absl::StatusOr<FileMap> Open(const std::string& path);

  FileMap() = default;
  FileMap(FileMap&& other) noexcept;
  FileMap& operator=(FileMap&& other) noexcept;
  ~FileMap();

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }

 private:
  FileMap(void* data, std::size_t size) : data_(data), size_(size) {}
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

// The whole content of a regular file. ResourceExhausted if it has more than `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, std::uint64_t max_bytes);

// Writes to `path` atomically: a temporary file beside it, flushed, then renamed over it.
absl::Status WriteFileAtomically(const std::string& path, std::string_view content);

}  // namespace siglip
