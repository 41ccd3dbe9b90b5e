#include "engine/weight_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string_view>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/content_hash.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace siglip {
namespace {

std::string Hex(std::uint64_t value) { return absl::StrCat(absl::Hex(value, absl::kZeroPad16)); }

std::uint64_t HashOf(std::string_view text) { return ContentHash(std::as_bytes(std::span(text))); }

// What tells one tensor from another but for its bytes.
std::string TensorText(const std::string& name, const StoredTensor& tensor) {
  return absl::StrCat(name, " ", tensor.dtype_name, " [", absl::StrJoin(tensor.shape, ","),
                      "]\n");
}

std::string HashContent(const Checkpoint& checkpoint, ThreadTeam& team) {
  std::string text = absl::StrCat(checkpoint.config_text(), "\n");
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    absl::StrAppend(&text, TensorText(name, tensor),
                    Hex(HashInParallel(team, tensor.bytes, AfterHash::kDropPages)), "\n");
  }
  return Hex(HashOf(text));
}

// Which files these are and in what state. The extra tensors are those that a checkpoint in several
// files does not take although a file holds them.
std::string IdentityText(const Checkpoint& checkpoint) {
  std::string text = absl::StrCat(checkpoint.config_text(), "\n",
                                  absl::StrJoin(checkpoint.extra_tensors(), "\n"), "\n");
  for (const FileIdentity& file : checkpoint.weight_file_identities()) {
    absl::StrAppend(&text, "device ", file.device, " inode ", file.inode, " bytes ", file.bytes,
                    " modified ", file.modified_ns, " changed ", file.changed_ns, "\n");
  }
  return text;
}

std::int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// Whether the files are as they were when they were mapped, at `begin_ns` or before, and had been
// so for long enough that any later change shows in their times.
bool Settled(const Checkpoint& checkpoint, std::int64_t begin_ns,
             std::chrono::nanoseconds settled) {
  const std::vector<FileIdentity> identities = checkpoint.weight_file_identities();
  for (std::size_t i = 0; i < identities.size(); ++i) {
    const auto now = IdentifyFile(checkpoint.weight_files()[i]);
    const std::int64_t last = std::max(identities[i].modified_ns, identities[i].changed_ns);
    if (!now.ok() || *now != identities[i] || last > begin_ns - settled.count()) return false;
  }
  return true;
}

// The file that is written, held by one process at a time.
class LockedFile {
 public:
  // Waits for the process that has it.
  static absl::StatusOr<std::unique_ptr<LockedFile>> Open(const std::string& path) {
    while (true) {
      std::unique_ptr<LockedFile> file(
          new LockedFile(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644)));
      if (file->fd_ < 0) return absl::ErrnoToStatus(errno, "cannot create '" + path + "'");
      if (::flock(file->fd_, LOCK_EX | LOCK_NB) != 0) {
        SIGLIP_LOG_INFO("weights cache=wait file={}", LogSafe(path));
        if (::flock(file->fd_, LOCK_EX) != 0) {
          return absl::ErrnoToStatus(errno, "cannot lock '" + path + "'");
        }
      }
      // The process before may have renamed it to what it was made for: then it must not be
      // touched.
      SIGLIP_ASSIGN_OR_RETURN(const bool is_named, IsNamed(path, file->fd_));
      if (is_named) return file;
    }
  }
  ~LockedFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  LockedFile(const LockedFile&) = delete;
  LockedFile& operator=(const LockedFile&) = delete;

  int fd() const { return fd_; }

 private:
  explicit LockedFile(int fd) : fd_(fd) {}
  const int fd_;
};

}  // namespace

std::string ContentKey(const Checkpoint& checkpoint, const std::string& folder, ThreadTeam& team,
                       const ContentKeyOptions& options) {
  const std::string identity = IdentityText(checkpoint);
  const std::string path = absl::StrCat(folder, "/", Hex(HashOf(identity)), ".identity");
  // Ends with its own hash: what is cut off or changed is not believed.
  const auto complete = [&](const std::string& key) {
    const std::string text = absl::StrCat(identity, "content ", key, "\n");
    return absl::StrCat(text, Hex(HashOf(text)), "\n");
  };
  const auto remembered = ReadFile(path, complete(std::string(16, '0')).size());
  if (remembered.ok() && remembered->size() > identity.size() + 8 + 16) {
    const std::string key = remembered->substr(identity.size() + 8, 16);
    if (*remembered == complete(key)) return key;
  }
  const std::int64_t begin_ns = NowNs();
  const std::string key = HashContent(checkpoint, team);
  if (Settled(checkpoint, begin_ns, options.settled)) {
    const absl::Status status = WriteFileAtomically(path, complete(key));
    if (!status.ok()) {
      SIGLIP_LOG_WARN("weights cache=unwritable error=\"{}\"",
                      LogSafe(std::string(status.message())));
    }
  }
  return key;
}

absl::StatusOr<WeightCache> WeightCache::Open(const std::string& folder,
                                              const Checkpoint& checkpoint, GemmFormat format,
                                              ThreadTeam& team) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot make folder '", folder, "'"));
  }
  WeightCache cache;
  const std::string name =
      absl::StrCat(ContentKey(checkpoint, folder, team), "-", PackedLayoutName(format));
  cache.path_ = absl::StrCat(folder, "/", name, ".weights");
  cache.label_ = name;
  return cache;
}

absl::StatusOr<WeightFile> WeightCache::Load(ThreadTeam& team) {
  loaded_.reset();
  SIGLIP_ASSIGN_OR_RETURN(loaded_, IdentifyFile(path_));
  SIGLIP_ASSIGN_OR_RETURN(WeightFile file, WeightFile::Open(path_, label_, team));
  loaded_ = file.map().identity();
  return file;
}

absl::Status WeightCache::Build(ThreadTeam& team, const Pack& pack) {
  const std::string temporary = path_ + ".new";
  SIGLIP_ASSIGN_OR_RETURN(const std::unique_ptr<LockedFile> file, LockedFile::Open(temporary));
  const auto now = IdentifyFile(path_);
  if (now.ok() && (!loaded_ || now->inode != loaded_->inode || now->device != loaded_->device)) {
    ::unlink(temporary.c_str());
    return absl::OkStatus();
  }
  absl::Status status;
  if (::ftruncate(file->fd(), 0) != 0) {
    status = absl::ErrnoToStatus(errno, "cannot empty '" + temporary + "'");
  }
  if (status.ok()) {
    WeightFileWriter writer(file->fd(), temporary, label_);
    pack(writer);
    status = writer.Finish(team);
  }
  if (status.ok() && std::rename(temporary.c_str(), path_.c_str()) != 0) {
    status = absl::ErrnoToStatus(errno, absl::StrCat("cannot rename to '", path_, "'"));
  }
  if (!status.ok()) {
    ::unlink(temporary.c_str());
    return status;
  }
  SIGLIP_LOG_INFO("weights cache=packed file={}", LogSafe(path_));
  return absl::OkStatus();
}

}  // namespace siglip
