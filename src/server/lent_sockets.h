#pragma once

// How many of the connections that were handed to a library, which closes them and does not say so,
// are still open. Private to this folder.

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <vector>

namespace siglip {

// Used by one thread at a time.
class LentSockets {
 public:
  // A socket is about to be handed over. May throw bad_alloc.
  void Add(int fd);
  // Those that may be open: no fewer than are. At `limit` or more each is looked at, once in
  // kLookPeriod, so that those which have been closed no longer count.
  std::size_t CountUpTo(std::size_t limit);

 private:
  // A look costs half a microsecond a socket: of 8192, a twentieth of a core at most.
  static constexpr std::chrono::milliseconds kLookPeriod{100};

  // By descriptor; 0: none. A number that sockets never share tells one from the next that has its
  // descriptor.
  std::vector<ino_t> inodes_;
  std::size_t count_ = 0;
  std::chrono::steady_clock::time_point next_look_{};
};

}  // namespace siglip
