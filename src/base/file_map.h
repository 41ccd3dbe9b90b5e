#pragma once

// Files as bytes: mapped read-only, or read whole up to a limit.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace siglip {

// Which file, and which state of it: a write changes the times, a replacement the inode.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t bytes = 0;
  std::int64_t modified_ns = 0;  // content, as the writer may set it
  std::int64_t changed_ns = 0;   // content or attributes, set by the kernel alone

  bool operator==(const FileIdentity&) const = default;
};
// Of the file that `path` names now.
absl::StatusOr<FileIdentity> IdentifyFile(const std::string& path);
// Whether `path` still names the file that is open as `fd`: whoever had it locked before may have
// removed or renamed it since it was opened.
absl::StatusOr<bool> IsNamed(const std::string& path, int fd);

// Whether a folder has an entry of that name, be it a link to nothing: opening that one says so,
// and who took it for absent would go on without what it stands for.
bool HasEntry(const std::string& path);

// Whether it is what Git LFS leaves in a clone in the place of a file that was not fetched.
bool IsGitLfsPointer(std::string_view content);
// What to do about one.
inline constexpr std::string_view kGitLfsAdvice =
    "a pointer of Git LFS stands in the file's place: run `git lfs pull` in the clone, or download "
    "the file itself (`hf download`)";

// A read-only private mapping of a whole regular file; symlinks are followed. Renaming or unlinking
// the file while it is mapped is harmless, truncating it makes later reads raise SIGBUS.
// Thread-safe once opened. Movable.
class FileMap {
 public:
  // NotFound, PermissionDenied or FailedPrecondition (not a regular file, or a Git LFS pointer),
  // naming the path.
  static absl::StatusOr<FileMap> Open(const std::string& path);

  FileMap() = default;
  FileMap(FileMap&& other) noexcept;
  FileMap& operator=(FileMap&& other) noexcept;
  ~FileMap();

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  // Of the file when it was opened.
  const FileIdentity& identity() const { return identity_; }

 private:
  FileMap(void* data, std::size_t size, const FileIdentity& identity)
      : data_(data), size_(size), identity_(identity) {}
  void* data_ = nullptr;
  std::size_t size_ = 0;
  FileIdentity identity_;
};

// Gives the memory of `bytes`, which are part of a FileMap, back to the kernel; reading them again
// reads the file again. Only a hint: whole pages, and errors do not matter.
void DropPages(std::span<const std::byte> bytes);

// A longer image is refused, in an archive or a file by itself: a small compressed or sparse file
// may claim any size. Far above what Pillow's limit on pixels lets through in any sane encoding.
inline constexpr std::uint64_t kMaxImageBytes = std::uint64_t{1} << 30;

// The whole content of a regular file. ResourceExhausted if it has more than `max_bytes`, else as
// FileMap::Open.
absl::StatusOr<std::string> ReadFile(const std::string& path, std::uint64_t max_bytes);

// What either would say of the file, without its content.
absl::Status CheckInputFile(const std::string& path);

// ReadFile of anything that can be read to its end, such as the pipe of a shell's <(...).
absl::StatusOr<std::string> ReadInputFile(const std::string& path, std::uint64_t max_bytes);

// Writes to `path` atomically: a temporary file beside it, flushed, then renamed over it.
absl::Status WriteFileAtomically(const std::string& path, std::string_view content);

// The same with the content of a regular file, which may lie on another file system.
absl::Status CopyFileAtomically(const std::string& from, const std::string& to);

// Where to put what replaces the output that a person named: `path`, or the file behind its
// symlinks. Nothing if it is no file (a pipe, a terminal, /dev/null): that stays and is written to.
std::optional<std::string> ReplaceablePath(const std::string& path);

// Writes there: atomically where something is replaced.
absl::Status WriteOutputFile(const std::string& path, std::string_view content);

// Whether that could be done now. Nothing is changed: a file is made beside it and goes again, and
// a pipe is not opened.
absl::Status CheckOutputFile(const std::string& path);

}  // namespace siglip
