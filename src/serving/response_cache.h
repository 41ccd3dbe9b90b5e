#pragma once

// Answers of earlier requests. A request finds one only if everything that its answer depends on is
// the same: the models (all that are loaded), the name and version it asked for, the name, type,
// shape and bytes of each input, each parameter, which outputs it wants, and whether tokens count.

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "base/sha256.h"
#include "serving/request.h"
#include "serving/statistics.h"

namespace siglip {

// `generation`: ModelAccess::generation, which changes whenever a model is loaded or unloaded.
Sha256Digest CacheKey(const InferRequest& request, std::uint64_t generation);

// The values of --cache-config: "local,size=<bytes>". 0 if there are none. InvalidArgument quotes
// the text.
absl::StatusOr<std::int64_t> ParseCacheConfig(std::span<const std::string> texts);

struct CachedAnswer {
  std::vector<OutputTensor> outputs;
  std::int64_t input_tokens = 0;  // as InferResponse's
};

// The least recently used go first. Thread-safe.
class ResponseCache {
 public:
  // Counts the tensors and what keeps them; a tensor that is being sent outlives its entry
  // uncounted.
  explicit ResponseCache(std::int64_t limit_bytes);

  // The tensors share the cache's memory; nothing if there is no entry.
  std::optional<CachedAnswer> Find(const Sha256Digest& key);
  // Copies. What is larger than a shard (the limit / num_shards) is not kept.
  void Insert(const Sha256Digest& key, const std::vector<OutputTensor>& outputs,
              std::int64_t input_tokens);

  std::int64_t bytes() const;
  CacheStatistics Statistics() const;
  std::size_t num_shards() const { return shards_.size(); }

 private:
  struct Entry {
    Sha256Digest key;
    CachedAnswer answer;
    std::int64_t bytes = 0;
  };
  struct KeyHash {
    std::size_t operator()(const Sha256Digest& key) const;
  };
  struct Shard {
    mutable Mutex mu;
    std::list<Entry> entries SIGLIP_GUARDED_BY(mu);  // the last used in front
    std::unordered_map<Sha256Digest, std::list<Entry>::iterator, KeyHash> by_key
        SIGLIP_GUARDED_BY(mu);
    std::int64_t bytes SIGLIP_GUARDED_BY(mu) = 0;
    CacheStatistics counters SIGLIP_GUARDED_BY(mu);  // but for entries and utilization
  };
  Shard& ShardOf(const Sha256Digest& key) { return shards_[key.back() % shards_.size()]; }

  std::vector<Shard> shards_;
  const std::int64_t shard_limit_bytes_;
};

}  // namespace siglip
