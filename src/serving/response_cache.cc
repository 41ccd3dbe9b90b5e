#include "serving/response_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/aligned_buffer.h"
#include "base/checked_math.h"
#include "base/clock.h"

namespace siglip {
namespace {

// One lock for so many bytes, and no more than so many locks: entries of some kilobytes are found
// in a microsecond, so a dozen locks are enough for any number of I/O threads.
constexpr std::int64_t kShardBytes = 1 << 20;
constexpr std::int64_t kMaxShards = 16;
// What an entry takes beside its tensors' bytes: list and table nodes, names, shapes, counts.
constexpr std::int64_t kEntryBytes = 512;

void AddNumber(std::uint64_t number, Sha256& hash) {
  hash.Add({reinterpret_cast<const char*>(&number), sizeof(number)});
}

void AddParameter(const ParameterValue& value, Sha256& hash) {
  AddNumber(value.index(), hash);
  std::visit(
      [&hash](const auto& v) {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, std::string>) {
          hash.AddField(v);
        } else if constexpr (std::is_same_v<T, double>) {
          AddNumber(std::bit_cast<std::uint64_t>(v), hash);
        } else {
          AddNumber(static_cast<std::uint64_t>(v), hash);
        }
      },
      value);
}

void AddInput(const InputTensor& input, Sha256& hash) {
  hash.AddField(input.name);
  AddNumber(static_cast<std::uint64_t>(input.datatype), hash);
  AddNumber(input.shape.size(), hash);
  for (const std::int64_t dim : input.shape) AddNumber(static_cast<std::uint64_t>(dim), hash);
  hash.AddField({reinterpret_cast<const char*>(input.data.data()), input.data.size()});
  AddNumber(input.elements.size(), hash);
  for (const std::string_view element : input.elements) hash.AddField(element);
}

std::vector<OutputTensor> Copy(const std::vector<OutputTensor>& outputs) {
  std::vector<OutputTensor> copies;
  for (const OutputTensor& output : outputs) {
    auto bytes = std::make_shared<AlignedBuffer<std::byte>>(output.data.size());
    if (!output.data.empty()) std::memcpy(bytes->data(), output.data.data(), output.data.size());
    OutputTensor& copy = copies.emplace_back();
    copy.name = output.name;
    copy.datatype = output.datatype;
    copy.shape = output.shape;
    copy.data = bytes->span();
    copy.storage = std::move(bytes);
  }
  return copies;
}

}  // namespace

Sha256Digest CacheKey(const InferRequest& request, std::uint64_t generation) {
  Sha256 hash;
  AddNumber(generation, hash);
  hash.AddField(request.model_name);
  hash.AddField(request.model_version);
  AddNumber(request.inputs.size(), hash);
  for (const InputTensor& input : request.inputs) AddInput(input, hash);
  AddNumber(request.parameters.size(), hash);
  for (const auto& [name, value] : request.parameters) {
    hash.AddField(name);
    AddParameter(value, hash);
  }
  AddNumber(request.outputs.size(), hash);
  for (const RequestedOutput& output : request.outputs) hash.AddField(output.name);
  AddNumber(std::uint64_t{request.count_tokens}, hash);
  return hash.Digest();
}

absl::StatusOr<std::int64_t> ParseCacheConfig(std::span<const std::string> texts) {
  constexpr std::string_view kPrefix = "local,size=";
  std::int64_t bytes = 0;
  for (const std::string& text : texts) {
    const auto size = text.starts_with(kPrefix)
                          ? ParseInt<std::int64_t>(std::string_view(text).substr(kPrefix.size()))
                          : std::nullopt;
    if (!size || *size < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--cache-config: expected local,size=<bytes>, got '", text, "'"));
    }
    bytes = *size;
  }
  return bytes;
}

std::size_t ResponseCache::KeyHash::operator()(const Sha256Digest& key) const {
  std::size_t hash = 0;
  std::memcpy(&hash, key.data(), sizeof(hash));
  return hash;
}

ResponseCache::ResponseCache(std::int64_t limit_bytes)
    : shards_(static_cast<std::size_t>(
          std::clamp<std::int64_t>(limit_bytes / kShardBytes, 1, kMaxShards))),
      shard_limit_bytes_(limit_bytes / static_cast<std::int64_t>(shards_.size())) {}

std::optional<CachedAnswer> ResponseCache::Find(const Sha256Digest& key) {
  const std::int64_t start_ns = SteadyNowNs();
  Shard& shard = ShardOf(key);
  MutexLock lock(shard.mu);
  const auto found = shard.by_key.find(key);
  const bool hit = found != shard.by_key.end();
  ++(hit ? shard.counters.hits : shard.counters.misses);
  std::optional<CachedAnswer> answer;
  if (hit) {
    shard.entries.splice(shard.entries.begin(), shard.entries, found->second);
    answer = found->second->answer;
  }
  shard.counters.lookup_ns += static_cast<std::uint64_t>(SteadyNowNs() - start_ns);
  return answer;
}

void ResponseCache::Insert(const Sha256Digest& key, const std::vector<OutputTensor>& outputs,
                           std::int64_t input_tokens) {
  const std::int64_t start_ns = SteadyNowNs();
  std::int64_t bytes = kEntryBytes;
  for (const OutputTensor& output : outputs) bytes += static_cast<std::int64_t>(output.data.size());
  if (bytes > shard_limit_bytes_) return;
  std::list<Entry> fresh;
  fresh.push_back({.key = key, .answer = {Copy(outputs), input_tokens}, .bytes = bytes});
  std::list<Entry> gone;  // destroyed after the lock
  Shard& shard = ShardOf(key);
  MutexLock lock(shard.mu);
  if (shard.by_key.contains(key)) return;  // another request was faster
  while (shard.bytes + bytes > shard_limit_bytes_) {
    shard.bytes -= shard.entries.back().bytes;
    shard.by_key.erase(shard.entries.back().key);
    gone.splice(gone.begin(), shard.entries, std::prev(shard.entries.end()));
    ++shard.counters.evictions;
  }
  shard.by_key.emplace(key, fresh.begin());
  shard.entries.splice(shard.entries.begin(), fresh);
  shard.bytes += bytes;
  shard.counters.insertion_ns += static_cast<std::uint64_t>(SteadyNowNs() - start_ns);
}

std::int64_t ResponseCache::bytes() const {
  std::int64_t sum = 0;
  for (const Shard& shard : shards_) {
    MutexLock lock(shard.mu);
    sum += shard.bytes;
  }
  return sum;
}

CacheStatistics ResponseCache::Statistics() const {
  CacheStatistics sum;
  std::int64_t used_bytes = 0;
  for (const Shard& shard : shards_) {
    MutexLock lock(shard.mu);
    sum.entries += shard.entries.size();
    sum.hits += shard.counters.hits;
    sum.misses += shard.counters.misses;
    sum.evictions += shard.counters.evictions;
    sum.lookup_ns += shard.counters.lookup_ns;
    sum.insertion_ns += shard.counters.insertion_ns;
    used_bytes += shard.bytes;
  }
  const std::int64_t limit_bytes = shard_limit_bytes_ * static_cast<std::int64_t>(shards_.size());
  if (limit_bytes > 0) {
    sum.utilization = static_cast<double>(used_bytes) / static_cast<double>(limit_bytes);
  }
  return sum;
}

}  // namespace siglip
