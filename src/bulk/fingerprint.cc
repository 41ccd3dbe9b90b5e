#include "bulk/fingerprint.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/content_hash.h"
#include "base/file_map.h"
#include "base/sha256.h"
#include "base/status_macros.h"
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

}  // namespace

absl::StatusOr<std::string> CheckpointFingerprint(const std::string& folder) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  std::filesystem::directory_iterator it(folder, error);
  for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string extension = it->path().extension().string();
    if (extension == ".json" || extension == ".model" || extension == ".safetensors") {
      files.push_back(it->path());
    }
  }
  if (error) return absl::NotFoundError(absl::StrCat(folder, ": ", error.message()));
  std::sort(files.begin(), files.end());
  Sha256 hash;
  for (const std::filesystem::path& file : files) {
    SIGLIP_ASSIGN_OR_RETURN(const FileMap map, FileMap::Open(file.string()));
    hash.AddField(file.filename().string());
    hash.AddField(absl::StrCat(map.bytes().size()));
    if (file.extension() == ".safetensors") {
      hash.AddField(absl::StrCat(ContentHash(map.bytes())));
    } else {
      hash.Add(View(map.bytes()));
    }
  }
  return hash.Hex();
}

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
  for (std::size_t i = 0; i < items.inputs.size(); ++i) {
    hash.AddField(items.inputs[i]);
    if (KindOf(items.inputs[i]) == InputKind::kImage) continue;
    struct stat info {};
    if (::stat(std::string(items.inputs[i]).c_str(), &info) != 0) continue;
    hash.AddField(absl::StrCat(info.st_size, ",", info.st_mtim.tv_sec, ",", info.st_mtim.tv_nsec));
  }
  hash.AddField("texts");
  for (std::size_t i = 0; i < items.texts.size(); ++i) hash.AddField(items.texts[i]);
  hash.AddField(items.columns.image);
  hash.AddField(items.columns.id);
  return hash.Hex();
}

}  // namespace siglip::bulk
