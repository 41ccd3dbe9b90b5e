#include "server/lent_sockets.h"

#include <sys/stat.h>

namespace siglip {
namespace {

ino_t InodeOf(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
}

}  // namespace

void LentSockets::Add(int fd) {
  const auto at = static_cast<std::size_t>(fd);
  if (at >= inodes_.size()) inodes_.resize(at + 1);
  // Where there is one it was closed, or its descriptor would not be free.
  if (inodes_[at] == 0) ++count_;
  inodes_[at] = InodeOf(fd);
}

std::size_t LentSockets::CountUpTo(std::size_t limit) {
  const auto now = std::chrono::steady_clock::now();
  if (count_ < limit || now < next_look_) return count_;
  next_look_ = now + kLookPeriod;
  count_ = 0;
  for (std::size_t fd = 0; fd < inodes_.size(); ++fd) {
    if (inodes_[fd] == 0) continue;
    if (InodeOf(static_cast<int>(fd)) != inodes_[fd]) inodes_[fd] = 0;
    if (inodes_[fd] != 0) ++count_;
  }
  return count_;
}

}  // namespace siglip
