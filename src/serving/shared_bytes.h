#pragma once

// Bytes of another process, which may change them or take them away at any time.

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"

namespace siglip {

// Thread-safe.
class SharedBytes {
 public:
  virtual ~SharedBytes() = default;

  virtual std::uint64_t size() const = 0;
  // Both copy. Internal, with the reason, if the bytes are no longer there.
  virtual absl::Status Read(std::span<std::byte> bytes, std::uint64_t offset) const = 0;
  virtual absl::Status Write(std::span<const std::byte> bytes, std::uint64_t offset) const = 0;
};

}  // namespace siglip
