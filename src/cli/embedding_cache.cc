#include "cli/embedding_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "cli/fnv.h"

namespace siglip::cli {
namespace {

constexpr std::string_view kMagic = "SIGLIPE1";

template <class T>
void AppendNumber(T value, std::string& out) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <class T>
T NumberAt(std::string_view bytes, std::size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

std::string Header(std::size_t embedding_size) {
  std::string header(kMagic);
  AppendNumber(static_cast<std::uint64_t>(embedding_size), header);
  return header;
}

struct CacheRecord {
  std::string_view key;
  std::size_t bytes = 0;  // of all of it
};

// The record that `bytes` begin with, if it is whole. Zeros, of which a power loss leaves many, are
// told at once, as no key is empty.
std::optional<CacheRecord> CacheRecordAt(std::string_view bytes, std::size_t embedding_size) {
  if (bytes.size() < sizeof(std::uint32_t)) return std::nullopt;
  const std::size_t key_bytes = NumberAt<std::uint32_t>(bytes, 0);
  if (key_bytes == 0 || key_bytes > EmbeddingCache::kMaxKeyBytes) return std::nullopt;
  const std::size_t checked = sizeof(std::uint32_t) + key_bytes + embedding_size * sizeof(float);
  if (bytes.size() < checked + sizeof(std::uint64_t)) return std::nullopt;
  if (Fnv(bytes.substr(0, checked)) != NumberAt<std::uint64_t>(bytes, checked)) return std::nullopt;
  return CacheRecord{bytes.substr(sizeof(std::uint32_t), key_bytes),
                     checked + sizeof(std::uint64_t)};
}

absl::Status SystemError(const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cache ", path));
}

}  // namespace

absl::StatusOr<std::unique_ptr<EmbeddingCache>> EmbeddingCache::Open(const std::string& directory,
                                                                     const std::string& identity,
                                                                     std::int64_t embedding_size) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    return absl::PermissionDeniedError(absl::StrCat("cache ", directory, ": ", error.message()));
  }
  std::string path = absl::StrCat(directory, "/", identity, ".embeddings");
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return SystemError(path);
  std::unique_ptr<EmbeddingCache> cache(
      new EmbeddingCache(std::move(path), fd, static_cast<std::size_t>(embedding_size)));
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("cache ", cache->path_, ": another process is using it"));
  }
  SIGLIP_RETURN_IF_ERROR(cache->Load());
  return cache;
}

EmbeddingCache::~EmbeddingCache() { ::close(fd_); }

// The file: Header, then records of
//   uint32 key bytes, key, embedding_size floats, uint64 FNV-1a of all of these. Native byte order.
absl::Status EmbeddingCache::Load() {
  SIGLIP_ASSIGN_OR_RETURN(const FileMap map, FileMap::Open(path_));
  const std::string_view bytes(reinterpret_cast<const char*>(map.bytes().data()),
                               map.bytes().size());
  const std::string header = Header(embedding_size_);
  // A run that was killed at once leaves less than a header.
  if (bytes.size() < header.size() && header.starts_with(bytes)) {
    if (::ftruncate(fd_, 0) != 0) return SystemError(path_);
    return Append(header);
  }
  if (!bytes.starts_with(header)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cache ", path_, ": expected a cache of embeddings of ", embedding_size_, " floats"));
  }
  end_ = header.size();
  for (std::size_t at = header.size(); at < bytes.size();) {
    const std::optional<CacheRecord> record = CacheRecordAt(bytes.substr(at), embedding_size_);
    if (!record.has_value()) {
      ++at;  // damaged: the next record may begin anywhere
      continue;
    }
    offsets_[std::string(record->key)] = at + sizeof(std::uint32_t) + record->key.size();
    at += record->bytes;
    end_ = at;
  }
  if (::ftruncate(fd_, static_cast<off_t>(end_)) != 0) return SystemError(path_);
  return absl::OkStatus();
}

bool EmbeddingCache::Find(const std::string& key, std::span<float> out) const {
  SIGLIP_CHECK(out.size() == embedding_size_);
  const auto found = offsets_.find(key);
  if (found == offsets_.end()) return false;
  const ssize_t wanted = static_cast<ssize_t>(out.size_bytes());
  return ::pread(fd_, out.data(), out.size_bytes(), static_cast<off_t>(found->second)) == wanted;
}

absl::Status EmbeddingCache::Add(const std::string& key, std::span<const float> embedding) {
  SIGLIP_CHECK(embedding.size() == embedding_size_ && !key.empty() && key.size() <= kMaxKeyBytes);
  std::string record;
  AppendNumber(static_cast<std::uint32_t>(key.size()), record);
  record += key;
  const std::uint64_t floats_at = end_ + record.size();
  record.append(reinterpret_cast<const char*>(embedding.data()), embedding.size_bytes());
  AppendNumber(Fnv(record), record);
  SIGLIP_RETURN_IF_ERROR(Append(record));
  offsets_[key] = floats_at;
  return absl::OkStatus();
}

absl::Status EmbeddingCache::Append(std::string_view bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n =
        ::pwrite(fd_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(end_ + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(path_);
    done += static_cast<std::size_t>(n);
  }
  end_ += bytes.size();
  return absl::OkStatus();
}

std::string FileKey(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return "";
  std::error_code error;
  const std::string absolute = std::filesystem::absolute(path, error).string();
  std::string key = absl::StrCat("image\n", absolute, "\n", info.st_size, "\n", info.st_mtim.tv_sec,
                                 ".", info.st_mtim.tv_nsec);
  return error || key.size() > EmbeddingCache::kMaxKeyBytes ? "" : key;
}

}  // namespace siglip::cli
