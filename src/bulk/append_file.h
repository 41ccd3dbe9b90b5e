#pragma once

// Files of a job that can be killed at any moment: one that grows and goes back to a length known
// to be on disk, a lock that dies with its process, and moves that may be repeated.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace siglip::bulk {

// A file that is appended to. Confined to one thread.
class AppendFile {
 public:
  // Opens or creates `path` and cuts it to `bytes`. DataLoss if it is shorter.
  static absl::StatusOr<AppendFile> Open(const std::string& path, std::uint64_t bytes);

  AppendFile(AppendFile&& other) noexcept;
  AppendFile& operator=(AppendFile&& other) noexcept;
  ~AppendFile();  // what is buffered and not flushed is lost

  const std::string& path() const { return path_; }
  // Bytes appended, buffered ones included.
  std::uint64_t size() const { return written_ + buffer_.size(); }

  // ResourceExhausted when the disk is full.
  absl::Status Append(std::string_view bytes);
  // Writes what is buffered, and has it reach the disk.
  absl::Status Flush();
  // Replaces bytes at the file's beginning. Not flushed.
  absl::Status Overwrite(std::string_view head);

 private:
  AppendFile(std::string path, int fd, std::uint64_t bytes)
      : path_(std::move(path)), fd_(fd), written_(bytes) {}
  absl::Status WriteBuffer();

  std::string path_;
  int fd_ = -1;
  std::uint64_t written_ = 0;
  std::string buffer_;
};

// Held until destruction, or the process' end. Unavailable if another process holds it.
class FileLock {
 public:
  static absl::StatusOr<std::unique_ptr<FileLock>> Take(const std::string& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  explicit FileLock(int fd) : fd_(fd) {}
  const int fd_;
};

// False only if there is nothing at `path`: a file system that does not answer (EIO, ESTALE) is an
// error, for what depends on the answer may truncate or delete.
absl::StatusOr<bool> IsThere(const std::string& path);

// Renames `from` over `to`, across file systems too; nothing if there is no `from`, for an earlier
// run did it.
absl::Status MoveIfThere(const std::string& from, const std::string& to);

// The same where a person named `to`: the file behind a symlink is replaced, and what is no file (a
// pipe, /dev/null) stays and gets the bytes.
absl::Status MoveToOutput(const std::string& from, const std::string& to);

// Has the names in the folder of `path` reach the disk, where the file system can do that and the
// folder may be read.
absl::Status FlushFolderOf(const std::string& path);

}  // namespace siglip::bulk
