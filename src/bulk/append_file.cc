#include "bulk/append_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/status_macros.h"

namespace siglip::bulk {
namespace {

// One write per so much: a row is a few kB.
constexpr std::size_t kBufferBytes = 1 << 20;

absl::Status Error(const char* what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", what, " '", path, "'"));
}

}  // namespace

absl::StatusOr<AppendFile> AppendFile::Open(const std::string& path, std::uint64_t bytes) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return Error("open", path);
  AppendFile file(path, fd, bytes);
  struct stat info {};
  if (::fstat(fd, &info) != 0) return Error("stat", path);
  if (static_cast<std::uint64_t>(info.st_size) < bytes) {
    return absl::DataLossError(absl::StrCat(path, ": expected at least ", bytes,
                                            " bytes written by the earlier run, got ", info.st_size,
                                            ": --overwrite begins anew"));
  }
  if (::ftruncate(fd, static_cast<off_t>(bytes)) != 0) return Error("cut", path);
  if (::lseek(fd, 0, SEEK_END) < 0) return Error("seek", path);
  return file;
}

AppendFile::AppendFile(AppendFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      written_(other.written_),
      buffer_(std::move(other.buffer_)) {}

AppendFile& AppendFile::operator=(AppendFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(written_, other.written_);
  std::swap(buffer_, other.buffer_);
  return *this;
}

AppendFile::~AppendFile() {
  if (fd_ >= 0) ::close(fd_);
}

absl::Status AppendFile::Append(std::string_view bytes) {
  buffer_.append(bytes);
  return buffer_.size() < kBufferBytes ? absl::OkStatus() : WriteBuffer();
}

absl::Status AppendFile::WriteBuffer() {
  std::size_t done = 0;
  while (done < buffer_.size()) {
    const ssize_t count = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error("write", path_);
    done += static_cast<std::size_t>(count);
  }
  written_ += buffer_.size();
  buffer_.clear();
  return absl::OkStatus();
}

absl::Status AppendFile::Flush() {
  SIGLIP_RETURN_IF_ERROR(WriteBuffer());
  return ::fsync(fd_) == 0 ? absl::OkStatus() : Error("flush", path_);
}

absl::Status AppendFile::Overwrite(std::string_view head) {
  const ssize_t count = ::pwrite(fd_, head.data(), head.size(), 0);
  return count == static_cast<ssize_t>(head.size()) ? absl::OkStatus() : Error("write", path_);
}

absl::StatusOr<std::unique_ptr<FileLock>> FileLock::Take(const std::string& path) {
  while (true) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return Error("open", path);
    auto lock = std::unique_ptr<FileLock>(new FileLock(fd));
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return Error("lock", path);
      return absl::UnavailableError(absl::StrCat(path, ": another process is at this job"));
    }
    // Else it locks nothing, and another process takes a new file of the name.
    SIGLIP_ASSIGN_OR_RETURN(const bool is_named, IsNamed(path, fd));
    if (is_named) return lock;
  }
}

FileLock::~FileLock() { ::close(fd_); }

absl::StatusOr<bool> IsThere(const std::string& path) {
  std::error_code error;
  const bool there = std::filesystem::exists(path, error);
  if (!error) return there;
  return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot look for '", path, "'"));
}

absl::Status MoveIfThere(const std::string& from, const std::string& to) {
  SIGLIP_ASSIGN_OR_RETURN(const bool there, IsThere(from));
  if (!there) return absl::OkStatus();
  std::error_code error;
  std::filesystem::rename(from, to, error);
  if (error == std::errc::cross_device_link) {
    SIGLIP_RETURN_IF_ERROR(CopyFileAtomically(from, to));
    std::filesystem::remove(from, error);
  }
  if (error) {
    return absl::InternalError(
        absl::StrCat("cannot move '", from, "' to '", to, "': ", error.message()));
  }
  return absl::OkStatus();
}

absl::Status MoveToOutput(const std::string& from, const std::string& to) {
  SIGLIP_ASSIGN_OR_RETURN(const bool there, IsThere(from));
  if (!there) return absl::OkStatus();
  if (const auto target = ReplaceablePath(to)) return MoveIfThere(from, *target);
  std::ifstream in(from, std::ios::binary);
  std::ofstream out(to, std::ios::binary | std::ios::app);
  if (in.peek() != std::ifstream::traits_type::eof()) out << in.rdbuf();
  out.flush();
  if (!in.is_open() || !out) {
    return absl::InternalError(absl::StrCat("cannot copy '", from, "' to '", to, "'"));
  }
  std::error_code error;
  std::filesystem::remove(from, error);
  return absl::OkStatus();
}

absl::Status FlushFolderOf(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  const std::string folder = parent.empty() ? "." : parent.string();
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno == EACCES ? absl::OkStatus() : Error("open", folder);
  absl::Status status;
  // Some file systems flush no folders, and say so in one of these ways.
  if (::fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP && errno != EBADF) {
    status = Error("flush", folder);
  }
  ::close(fd);
  return status;
}

}  // namespace siglip::bulk
