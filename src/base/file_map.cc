#include "base/file_map.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/absl_view.h"
#include "base/file_descriptor.h"
#include "base/status_macros.h"

namespace siglip {
namespace {

// What is copied at once.
constexpr std::size_t kCopyBytes = 1 << 16;
constexpr std::size_t kMaxGitLfsPointerBytes = 1024;

struct OpenFile {
  std::unique_ptr<FileDescriptor> fd;
  std::uint64_t size;
  FileIdentity identity;
};

FileIdentity IdentityOf(const struct stat& info) {
  const auto nanoseconds = [](const timespec& time) {
    return static_cast<std::int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
  };
  return {.device = info.st_dev,
          .inode = info.st_ino,
          .bytes = static_cast<std::uint64_t>(info.st_size),
          .modified_ns = nanoseconds(info.st_mtim),
          .changed_ns = nanoseconds(info.st_ctim)};
}

// Of an `open` that failed with `error`.
absl::Status CannotOpen(const std::string& path, int error) {
  std::error_code no_link;
  const std::filesystem::path target = std::filesystem::read_symlink(path, no_link);
  if (error != ENOENT || no_link) {
    return absl::ErrnoToStatus(error, absl::StrCat("cannot open '", path, "'"));
  }
  return absl::NotFoundError(
      absl::StrCat("cannot open '", path, "': it is a link to '", target.string(),
                   "', which is not there (a download that was cut short, or a copy without what "
                   "its links lead to? `cp -rL` copies that too)"));
}

absl::StatusOr<OpenFile> OpenRegularFile(const std::string& path) {
  auto fd =
      std::make_unique<FileDescriptor>(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd->get() < 0) return CannotOpen(path, errno);
  struct stat info {};
  if (::fstat(fd->get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot stat '", path, "'"));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat("'", path, "' is not a regular file"));
  }
  return OpenFile{std::move(fd), static_cast<std::uint64_t>(info.st_size), IdentityOf(info)};
}

absl::Status CheckNoGitLfsPointer(const std::string& path, std::string_view content) {
  if (!IsGitLfsPointer(content)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("'", path, "': ", AbslView(kGitLfsAdvice)));
}

// A new file beside `path`, which takes its place; without that it goes again.
class FileBeside {
 public:
  static absl::StatusOr<FileBeside> Create(const std::string& path) {
    static std::atomic<unsigned> count{0};  // relaxed: it only tells the process's files apart
    std::string temporary =
        absl::StrCat(path, ".tmp.", ::getpid(), ".", count.fetch_add(1, std::memory_order_relaxed));
    // What lies there is of a process that had this number and was killed, or a trap.
    ::unlink(temporary.c_str());
    auto fd = std::make_unique<FileDescriptor>(
        ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (fd->get() < 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot create '", temporary, "'"));
    }
    return FileBeside(path, std::move(temporary), std::move(fd));
  }
  FileBeside(FileBeside&&) noexcept = default;
  ~FileBeside() {
    if (fd_ != nullptr) ::unlink(temporary_.c_str());
  }

  int fd() const { return fd_->get(); }
  const std::string& name() const { return temporary_; }
  // All was written.
  absl::Status TakePlace() && {
    if (::fsync(fd()) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot flush '", temporary_, "'"));
    }
    if (std::rename(temporary_.c_str(), path_.c_str()) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot rename to '", path_, "'"));
    }
    fd_.reset();
    return absl::OkStatus();
  }

 private:
  FileBeside(std::string path, std::string temporary, std::unique_ptr<FileDescriptor> fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(std::move(fd)) {}

  std::string path_;
  std::string temporary_;
  std::unique_ptr<FileDescriptor> fd_;  // none: moved from, or in its place
};

absl::Status WriteAll(int fd, std::string_view content, const std::string& path) {
  while (!content.empty()) {
    const ssize_t n = ::write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write '", path, "'"));
    content.remove_prefix(static_cast<std::size_t>(n));
  }
  return absl::OkStatus();
}

// Where a file comes to be that is made through symlinks to nothing; `path` if they are a loop.
std::string BehindLinks(const std::string& path) {
  constexpr int kMaxLinks = 40;  // as Linux follows
  std::filesystem::path target = path;
  std::error_code error;
  for (int i = 0; i < kMaxLinks; ++i) {
    const std::filesystem::path next = std::filesystem::read_symlink(target, error);
    if (error) return target.string();  // no link
    target = target.parent_path() / next;
  }
  return path;
}

}  // namespace

absl::StatusOr<FileMap> FileMap::Open(const std::string& path) {
  SIGLIP_ASSIGN_OR_RETURN(OpenFile file, OpenRegularFile(path));
  if (file.size == 0) return FileMap(nullptr, 0, file.identity);
  void* data = ::mmap(nullptr, file.size, PROT_READ, MAP_PRIVATE, file.fd->get(), 0);
  if (data == MAP_FAILED) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot map '", path, "'"));
  }
  FileMap map(data, file.size, file.identity);
  SIGLIP_RETURN_IF_ERROR(CheckNoGitLfsPointer(path, {static_cast<const char*>(data), file.size}));
  return map;
}

FileMap::FileMap(FileMap&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      identity_(other.identity_) {}

FileMap& FileMap::operator=(FileMap&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(identity_, other.identity_);
  return *this;
}

FileMap::~FileMap() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

absl::StatusOr<FileIdentity> IdentifyFile(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot stat '", path, "'"));
  }
  return IdentityOf(info);
}

bool HasEntry(const std::string& path) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

bool IsGitLfsPointer(std::string_view content) {
  // The specification: the version comes first, and the whole is smaller than a kB.
  return content.size() < kMaxGitLfsPointerBytes &&
         content.starts_with("version https://git-lfs.github.com/spec/");
}

absl::StatusOr<bool> IsNamed(const std::string& path, int fd) {
  struct stat open {};
  if (::fstat(fd, &open) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot stat '", path, "'"));
  }
  const absl::StatusOr<FileIdentity> named = IdentifyFile(path);
  if (absl::IsNotFound(named.status())) return false;
  if (!named.ok()) return named.status();
  return named->inode == open.st_ino && named->device == open.st_dev;
}

void DropPages(std::span<const std::byte> bytes) {
  const std::uintptr_t page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(bytes.data());
  const std::uintptr_t first = (begin + page - 1) / page * page;
  const std::uintptr_t end = (begin + bytes.size()) / page * page;
  if (first < end) ::madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
}

absl::StatusOr<std::string> ReadFile(const std::string& path, std::uint64_t max_bytes) {
  SIGLIP_ASSIGN_OR_RETURN(OpenFile file, OpenRegularFile(path));
  if (file.size > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("'", path, "' has ", file.size, " bytes, the limit is ", max_bytes));
  }
  std::string content(file.size, '\0');
  std::size_t done = 0;
  while (done < content.size()) {
    const ssize_t n = ::read(file.fd->get(), content.data() + done, content.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read '", path, "'"));
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  content.resize(done);
  SIGLIP_RETURN_IF_ERROR(CheckNoGitLfsPointer(path, content));
  return content;
}

absl::Status CheckInputFile(const std::string& path) {
  SIGLIP_ASSIGN_OR_RETURN(const OpenFile file, OpenRegularFile(path));
  char head[kMaxGitLfsPointerBytes];
  const ssize_t n = ::pread(file.fd->get(), head, sizeof(head), 0);
  if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read '", path, "'"));
  return CheckNoGitLfsPointer(path, {head, static_cast<std::size_t>(n)});
}

absl::StatusOr<std::string> ReadInputFile(const std::string& path, std::uint64_t max_bytes) {
  FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open '", path, "'"));
  std::string content;
  char block[1 << 14];
  while (true) {
    const ssize_t n = ::read(fd.get(), block, sizeof(block));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read '", path, "'"));
    if (n == 0) return content;
    content.append(block, static_cast<std::size_t>(n));
    if (content.size() > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("'", path, "' has more than ", max_bytes, " bytes, the limit"));
    }
  }
}

absl::Status WriteFileAtomically(const std::string& path, std::string_view content) {
  SIGLIP_ASSIGN_OR_RETURN(FileBeside file, FileBeside::Create(path));
  SIGLIP_RETURN_IF_ERROR(WriteAll(file.fd(), content, file.name()));
  return std::move(file).TakePlace();
}

absl::Status CopyFileAtomically(const std::string& from, const std::string& to) {
  SIGLIP_ASSIGN_OR_RETURN(const OpenFile source, OpenRegularFile(from));
  SIGLIP_ASSIGN_OR_RETURN(FileBeside file, FileBeside::Create(to));
  std::string block(kCopyBytes, '\0');
  while (true) {
    const ssize_t n = ::read(source.fd->get(), block.data(), block.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read '", from, "'"));
    if (n == 0) return std::move(file).TakePlace();
    SIGLIP_RETURN_IF_ERROR(WriteAll(
        file.fd(), std::string_view(block).substr(0, static_cast<std::size_t>(n)), file.name()));
  }
}

std::optional<std::string> ReplaceablePath(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status there = std::filesystem::status(path, error);
  if (!std::filesystem::exists(there)) return BehindLinks(path);
  if (!std::filesystem::is_regular_file(there)) return std::nullopt;
  const std::filesystem::path target = std::filesystem::canonical(path, error);
  return error ? path : target.string();
}

absl::Status WriteOutputFile(const std::string& path, std::string_view content) {
  if (const auto target = ReplaceablePath(path)) return WriteFileAtomically(*target, content);
  FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY));
  if (fd.get() < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open '", path, "'"));
  return WriteAll(fd.get(), content, path);
}

absl::Status CheckOutputFile(const std::string& path) {
  if (const auto target = ReplaceablePath(path)) return FileBeside::Create(*target).status();
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return absl::FailedPreconditionError(absl::StrCat("'", path, "' is a folder"));
  }
  if (::access(path.c_str(), W_OK) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot write '", path, "'"));
}

}  // namespace siglip
