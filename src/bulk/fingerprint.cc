#include "bulk/fingerprint.h"

#include <sys/stat.h>

#include <span>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "bulk/listing.h"

namespace siglip::bulk {
namespace {

constexpr std::size_t kHeadBytes = 1 << 20;
constexpr std::size_t kNumSamples = 256;
constexpr std::size_t kSampleBytes = 4096;

std::string_view View(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void AddSampled(std::string_view bytes, Sha256& hash) {
  hash.Add(bytes.substr(0, kHeadBytes));
  if (bytes.size() <= kHeadBytes) return;
  bytes.remove_prefix(kHeadBytes);
  if (bytes.size() <= kNumSamples * kSampleBytes) {
    hash.Add(bytes);
    return;
  }
  const std::size_t room = bytes.size() - kSampleBytes;
  for (std::size_t i = 0; i < kNumSamples; ++i) {
    hash.Add(bytes.substr(room * i / (kNumSamples - 1), kSampleBytes));
  }
}

// Size and time of change of a file; empty if it cannot be looked at.
std::string StateOf(std::string_view path) {
  struct stat info {};
  if (::stat(std::string(path).c_str(), &info) != 0) return "";
  return absl::StrCat(info.st_size, ",", info.st_mtim.tv_sec, ",", info.st_mtim.tv_nsec);
}

}  // namespace

std::string RowsFingerprint(const EmbeddedRows& rows) {
  Sha256 hash;
  hash.AddField(absl::StrCat(rows.width()));
  for (const EmbeddedRows::Stored& stored : rows.stored()) {
    hash.AddField(stored.dtype == DType::kFloat32 ? "float32" : "float16");
    hash.AddField(absl::StrCat(stored.rows.size()));
    AddSampled(View(stored.rows), hash);
  }
  return hash.Hex();
}

std::string ItemsFingerprint(const JobItems& items) {
  Sha256 hash;
  // The numbers first, so that no list of names can be taken for another.
  hash.AddField(absl::StrCat(items.inputs.size(), ",", items.texts.size()));
  for (std::size_t i = 0; i < items.inputs.size(); ++i) {
    hash.AddField(items.inputs[i]);
    if (KindOf(items.inputs[i]) != InputKind::kImage) hash.AddField(StateOf(items.inputs[i]));
  }
  for (std::size_t i = 0; i < items.texts.size(); ++i) hash.AddField(items.texts[i]);
  hash.AddField(items.columns.image);
  hash.AddField(items.columns.id);
  return hash.Hex();
}

}  // namespace siglip::bulk
