#include "serving/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <iterator>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/absl_view.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace siglip {
namespace {

// Each region holds a file descriptor, of which a process has some thousand.
constexpr std::size_t kMaxRegions = 512;
// What the kernel takes for a name.
constexpr std::size_t kMaxKeyBytes = 255;
// Of Triton's own Python processes, which clients must not reach into.
constexpr const char* kReservedPrefix = "triton_python_backend_shm_region_";

// "name" of "/name" or "name".
std::string_view NameOf(std::string_view key) { return key.starts_with('/') ? key.substr(1) : key; }

// One component, so that it can only name shared memory.
bool IsPlainKey(std::string_view key) {
  const std::string_view name = NameOf(key);
  return !name.empty() && name.size() <= kMaxKeyBytes && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos &&
         !name.starts_with(kReservedPrefix);
}

// True if [offset, offset + size) lies within `limit` bytes.
bool Within(std::uint64_t offset, std::uint64_t size, std::uint64_t limit) {
  return offset <= limit && size <= limit - offset;
}

class SharedFile : public SharedBytes {
 public:
  explicit SharedFile(int fd) : fd_(fd) {}
  ~SharedFile() override { ::close(fd_); }
  SharedFile(const SharedFile&) = delete;
  SharedFile& operator=(const SharedFile&) = delete;

  std::uint64_t size() const override {
    struct stat info {};
    return ::fstat(fd_, &info) == 0 ? static_cast<std::uint64_t>(info.st_size) : 0;
  }
  absl::Status Read(std::span<std::byte> bytes, std::uint64_t offset) const override {
    while (!bytes.empty()) {
      const ssize_t n = ::pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return Smaller();
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      offset += static_cast<std::uint64_t>(n);
    }
    return absl::OkStatus();
  }
  absl::Status Write(std::span<const std::byte> bytes, std::uint64_t offset) const override {
    if (!Within(offset, bytes.size(), size())) return Smaller();  // writing would make it grow
    while (!bytes.empty()) {
      const ssize_t n = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return Smaller();
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      offset += static_cast<std::uint64_t>(n);
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status Smaller() {
    return absl::InternalError("it has become smaller than what was registered");
  }

  const int fd_;
};

absl::StatusOr<std::shared_ptr<const SharedBytes>> OpenFile(const SharedMemoryRegion& region,
                                                            const std::string& key_prefix) {
  if (!IsPlainKey(region.key)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot register shared memory region '", region.name, "': key '", region.key,
        "' is not allowed, expected a name of shared memory such as '/", region.name, "'"));
  }
  if (!NameOf(region.key).starts_with(NameOf(key_prefix))) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot register shared memory region '", region.name, "': key '", region.key,
                     "' is not allowed, expected one that begins with '/",
                     AbslView(NameOf(key_prefix)), "' (--client-shm-prefix)"));
  }
  const int fd = ::shm_open(region.key.c_str(), O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("Unable to open shared memory region: '", region.key, "'"));
  }
  return std::make_shared<const SharedFile>(fd);
}

absl::Status NotFound(const std::string& name) {
  return absl::NotFoundError(absl::StrCat("Unable to find shared memory region: '", name, "'"));
}

}  // namespace

absl::Status SharedMemoryRegions::CheckAllowed() const {
  if (rules_.allowed) return absl::OkStatus();
  return absl::UnimplementedError(
      "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to "
      "enable.");
}

absl::Status SharedMemoryRegions::CheckRoomFor(const std::string& name) const {
  MutexLock lock(mu_);
  return CheckRoomForLocked(name);
}

absl::Status SharedMemoryRegions::CheckRoomForLocked(const std::string& name) const {
  if (regions_.contains(name)) {
    return absl::AlreadyExistsError(
        absl::StrCat("shared memory region '", name, "' already in manager"));
  }
  if (regions_.size() >= kMaxRegions) {
    return absl::ResourceExhaustedError(absl::StrCat("shared memory region '", name,
                                                     "': expected at most ", kMaxRegions,
                                                     " registered regions"));
  }
  return absl::OkStatus();
}

absl::Status SharedMemoryRegions::Register(const SharedMemoryRegion& region) {
  SIGLIP_RETURN_IF_ERROR(CheckAllowed());
  if (region.name.empty()) {
    return absl::InvalidArgumentError("shared memory region: expected a name, got none");
  }
  SIGLIP_RETURN_IF_ERROR(CheckRoomFor(region.name));
  SIGLIP_ASSIGN_OR_RETURN(std::shared_ptr<const SharedBytes> bytes,
                          region.kind == SharedMemoryKind::kCuda
                              ? OpenCuda(region)
                              : OpenFile(region, rules_.key_prefix));
  if (const std::uint64_t size = bytes->size();
      region.byte_size == 0 || !Within(region.offset, region.byte_size, size)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "failed to register shared memory region '", region.name, "': expected a range within the ",
        size, " bytes of ",
        region.kind == SharedMemoryKind::kCuda ? "the handle" : absl::StrCat("'", region.key, "'"),
        ", got offset ", region.offset, " and byte_size ", region.byte_size));
  }
  MutexLock lock(mu_);
  SIGLIP_RETURN_IF_ERROR(CheckRoomForLocked(region.name));
  regions_.emplace(region.name, Entry{region, std::move(bytes)});
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const SharedBytes>> SharedMemoryRegions::OpenCuda(
    const SharedMemoryRegion& region) {
  std::shared_ptr<CudaIpc> cuda;
  {
    MutexLock lock(cuda_mu_);
    if (cuda_ == nullptr) {
      auto loaded = CudaIpc::Load(rules_.cuda_library);
      if (!loaded.ok()) {
        SIGLIP_LOG_INFO("cuda_shared_memory=off reason={}", std::string(loaded.status().message()));
        return absl::FailedPreconditionError(
            absl::StrCat("failed to register CUDA shared memory region: '", region.name,
                         "', GPUs not supported"));
      }
      cuda_ = *std::move(loaded);
    }
    cuda = cuda_;
  }
  auto opened = cuda->Open(region.key, region.device_id);
  if (opened.ok()) return opened;
  return absl::Status(opened.status().code(),
                      absl::StrCat("failed to register CUDA shared memory region: '", region.name,
                                   "': ", opened.status().message()));
}

void SharedMemoryRegions::Unregister(SharedMemoryKind kind, const std::string& name) {
  // Destroyed when the lock is no longer held: closing a GPU's memory waits for the driver.
  std::map<std::string, Entry> gone;
  MutexLock lock(mu_);
  for (auto it = regions_.begin(); it != regions_.end();) {
    const auto next = std::next(it);
    if (it->second.region.kind == kind && (name.empty() || it->first == name)) {
      gone.insert(regions_.extract(it));
    }
    it = next;
  }
}

absl::StatusOr<std::vector<SharedMemoryRegion>> SharedMemoryRegions::Status(
    SharedMemoryKind kind, const std::string& name) const {
  std::vector<SharedMemoryRegion> found;
  MutexLock lock(mu_);
  for (const auto& [key, entry] : regions_) {
    if (entry.region.kind == kind && (name.empty() || key == name)) found.push_back(entry.region);
  }
  if (!name.empty() && found.empty()) {
    return absl::NotFoundError(absl::StrCat("Unable to find ",
                                            kind == SharedMemoryKind::kCuda ? "cuda" : "system",
                                            " shared memory region: '", name, "'"));
  }
  return found;
}

absl::StatusOr<SharedMemoryRegions::Entry> SharedMemoryRegions::Find(
    const SharedMemorySlice& slice) const {
  SIGLIP_RETURN_IF_ERROR(CheckAllowed());
  MutexLock lock(mu_);
  const auto found = regions_.find(slice.region);
  if (found == regions_.end()) return NotFound(slice.region);
  const SharedMemoryRegion& region = found->second.region;
  if (slice.byte_size == 0 || !Within(slice.offset, slice.byte_size, region.byte_size)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "Invalid offset + byte size for shared memory region: '", slice.region, "': expected 1 to ",
        region.byte_size, ", got ", slice.offset, " + ", slice.byte_size));
  }
  return found->second;
}

absl::Status SharedMemoryRegions::CheckSlice(const SharedMemorySlice& slice) const {
  return Find(slice).status();
}

absl::StatusOr<std::shared_ptr<const std::vector<std::byte>>> SharedMemoryRegions::Read(
    const SharedMemorySlice& slice, std::uint64_t read_bytes) const {
  SIGLIP_ASSIGN_OR_RETURN(const Entry entry, Find(slice));
  if (!Within(read_bytes, slice.byte_size, rules_.max_read_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("input of ", slice.byte_size, " bytes in shared memory region '", slice.region,
                     "': a request's inputs there are larger than the limit of ",
                     rules_.max_read_bytes, " bytes"));
  }
  auto bytes = std::make_shared<std::vector<std::byte>>(slice.byte_size);
  if (const absl::Status read = entry.bytes->Read(*bytes, entry.region.offset + slice.offset);
      !read.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("shared memory region '", slice.region, "': ", read.message()));
  }
  return std::shared_ptr<const std::vector<std::byte>>(std::move(bytes));
}

absl::Status SharedMemoryRegions::Write(const SharedMemorySlice& slice,
                                        const OutputTensor& output) const {
  SIGLIP_ASSIGN_OR_RETURN(const Entry entry, Find(slice));
  if (output.data.size() > slice.byte_size) {
    return absl::InternalError(
        absl::StrCat("shared memory size specified with the request for output '", output.name,
                     "' (", slice.byte_size, " bytes) should be at least ", output.data.size(),
                     " bytes to hold the results"));
  }
  if (const absl::Status written =
          entry.bytes->Write(output.data, entry.region.offset + slice.offset);
      !written.ok()) {
    return absl::InternalError(absl::StrCat("output '", output.name,
                                            "' could not be written to shared memory region '",
                                            slice.region, "': ", written.message()));
  }
  return absl::OkStatus();
}

}  // namespace siglip
