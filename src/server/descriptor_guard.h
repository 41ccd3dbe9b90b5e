#pragma once

// Keeps connections from taking the process's last descriptors: files that are read again, pipes of
// decode workers and the like need some too. Private to this folder.

#include <cstdint>
#include <string>
#include <string_view>

namespace siglip {

// Of one door. Used by one thread at a time.
class DescriptorGuard {
 public:
  // `door` is for the log.
  explicit DescriptorGuard(std::string_view door) : door_(door) {}

  // Whether a connection that has just been accepted as descriptor `fd` may stay.
  bool Admits(int fd);

 private:
  const std::string door_;
  std::int64_t next_log_ns_ = 0;
};

}  // namespace siglip
