#pragma once

// Embeddings that an earlier, perhaps killed, run made: an append-only file of checked records.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace siglip::cli {

// Confined to one thread; one process at a time per file, by a lock. A record is on its way to disk
// when Add returned: killing the process loses nothing. A torn or damaged record (power loss) is
// passed over; when the file is opened it is cut behind its last whole record. Memory: the keys.
class EmbeddingCache {
 public:
  // Opens or makes `directory`/`identity`.embeddings. FailedPrecondition: another process has it
  // open, or it is no such file.
  static absl::StatusOr<std::unique_ptr<EmbeddingCache>> Open(const std::string& directory,
                                                              const std::string& identity,
                                                              std::int64_t embedding_size);
  ~EmbeddingCache();
  EmbeddingCache(const EmbeddingCache&) = delete;
  EmbeddingCache& operator=(const EmbeddingCache&) = delete;

  std::size_t size() const { return offsets_.size(); }
  // Copies the embedding of `key`; false if there is none. REQUIRES: out.size() == embedding_size.
  bool Find(const std::string& key, std::span<float> out) const;
  // REQUIRES: embedding.size() == embedding_size, 0 < key.size() <= kMaxKeyBytes.
  absl::Status Add(const std::string& key, std::span<const float> embedding);

  static constexpr std::size_t kMaxKeyBytes = 1 << 16;

 private:
  EmbeddingCache(std::string path, int fd, std::size_t embedding_size)
      : path_(std::move(path)), fd_(fd), embedding_size_(embedding_size) {}
  absl::Status Load();
  absl::Status Append(std::string_view bytes);

  const std::string path_;
  const int fd_;
  const std::size_t embedding_size_;
  std::uint64_t end_ = 0;                                   // of the last good record
  std::unordered_map<std::string, std::uint64_t> offsets_;  // key -> place of its floats
};

// What a file's embedding is kept under: its absolute path, size and time of modification. Empty if
// the file cannot be looked at.
std::string FileKey(const std::string& path);

}  // namespace siglip::cli
