#pragma once

#include <unistd.h>

#include <utility>

namespace siglip {

// A file descriptor, closed at the end; negative: none. Thread-compatible.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.Release()) {}
  FileDescriptor& operator=(FileDescriptor&&) = delete;

  int get() const { return fd_; }
  // The caller's to close from here on.
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

}  // namespace siglip
