#include "server/grpc_tls.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <string_view>
#include <utility>

#include "base/file_descriptor.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "protocol/text.h"
#include "server/tls.h"

namespace siglip {
namespace {

// Beside grpc++'s own look at the copies, once a second.
constexpr std::chrono::milliseconds kTlsLookInterval{250};
constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 20;

std::string PathOf(int fd) { return Concat("/proc/self/fd/", fd); }

absl::StatusOr<FileDescriptor> Copy(std::string_view text) {
  FileDescriptor copy(::memfd_create("siglip-tls", MFD_CLOEXEC));
  while (copy.get() >= 0 && !text.empty()) {
    const ssize_t n = ::write(copy.get(), text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) break;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  if (copy.get() >= 0 && text.empty()) return copy;
  return absl::ErrnoToStatus(errno, "grpc TLS: no memory for a copy of the certificates");
}

// `published` becomes the file of `copy`, in one step for whoever opens it by its number.
void Publish(FileDescriptor copy, int& published) {
  if (published < 0) {
    published = copy.Release();
  } else {
    ::dup3(copy.get(), published, O_CLOEXEC);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<CheckedTlsFiles>> CheckedTlsFiles::Open(const TlsFiles& files) {
  std::unique_ptr<CheckedTlsFiles> checked(new CheckedTlsFiles(files));
  SIGLIP_RETURN_IF_ERROR(checked->Update());
  checked->copies_.server_cert = PathOf(checked->identity_fd_);
  if (!files.root_cert.empty()) checked->copies_.root_cert = PathOf(checked->root_fd_);
  SIGLIP_RETURN_IF_ERROR(AddThreads(checked->follower_, 1, [raw = checked.get()](int) {
    Repeat([raw] { return raw->LookAgain(); });
  }));
  return checked;
}

CheckedTlsFiles::~CheckedTlsFiles() {
  {
    MutexLock lock(mu_);
    ending_ = true;
  }
  ends_.NotifyAll();
  for (std::thread& thread : follower_) thread.join();
  for (const int fd : {identity_fd_, root_fd_}) {
    if (fd >= 0) ::close(fd);
  }
}

std::vector<absl::StatusOr<FileIdentity>> CheckedTlsFiles::Identify() const {
  std::vector<absl::StatusOr<FileIdentity>> identities;
  for (const std::string& path : {files_.server_key, files_.server_cert, files_.root_cert}) {
    identities.push_back(IdentifyFile(path));
  }
  return identities;
}

absl::Status CheckedTlsFiles::Update() {
  auto identities = Identify();
  // Its errors name the files.
  SIGLIP_RETURN_IF_ERROR(MakeTlsContext("grpc", files_).status());
  SIGLIP_ASSIGN_OR_RETURN(const std::string key, ReadInputFile(files_.server_key, kMaxFileBytes));
  SIGLIP_ASSIGN_OR_RETURN(const std::string certificate,
                          ReadInputFile(files_.server_cert, kMaxFileBytes));
  std::string root;
  if (!files_.root_cert.empty()) {
    SIGLIP_ASSIGN_OR_RETURN(root, ReadInputFile(files_.root_cert, kMaxFileBytes));
  }
  SIGLIP_ASSIGN_OR_RETURN(FileDescriptor identity_copy, Copy(Concat(key, "\n", certificate)));
  SIGLIP_ASSIGN_OR_RETURN(FileDescriptor root_copy, Copy(root));
  // What was read, for it may be something else by now.
  TlsFiles copies = files_;
  copies.server_key = copies.server_cert = PathOf(identity_copy.get());
  if (!root.empty()) copies.root_cert = PathOf(root_copy.get());
  SIGLIP_RETURN_IF_ERROR(MakeTlsContext("grpc", copies).status());
  Publish(std::move(identity_copy), identity_fd_);
  Publish(std::move(root_copy), root_fd_);
  taken_ = std::move(identities);
  return absl::OkStatus();
}

bool CheckedTlsFiles::LookAgain() {
  {
    MutexLock lock(mu_);
    if (!ending_) ends_.WaitFor(mu_, kTlsLookInterval);
    if (ending_) return false;
  }
  if (last_.ok() && Identify() == taken_) return true;
  const absl::Status before = std::exchange(last_, Update());
  if (last_.ok()) {
    SIGLIP_LOG_INFO("files_reloaded what=grpc_certificates");
  } else if (last_ != before) {
    SIGLIP_LOG_ERROR("files_not_reloaded reason=\"{}\"", LogSafe(std::string(last_.message())));
  }
  return true;
}

}  // namespace siglip
