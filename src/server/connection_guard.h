#pragma once

// Which connections are closed as soon as they come: those over a door's limit, and those that
// would take the process's last descriptors, which files that are read again, pipes of decode
// workers and the like need. Private to this folder.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace siglip {

// Of one door. Used by one thread at a time.
class ConnectionGuard {
 public:
  // `door` is for the log. At most `connections` are open at a time.
  ConnectionGuard(std::string_view door, std::size_t connections)
      : door_(door), connections_(connections) {}

  // Whether a connection that has just been accepted as descriptor `fd`, beside `open` others, may
  // stay.
  bool Admits(int fd, std::size_t open);

 private:
  void Log(std::string_view reason, std::uint64_t limit);

  const std::string door_;
  const std::size_t connections_;
  std::int64_t next_log_ns_ = 0;
};

}  // namespace siglip
