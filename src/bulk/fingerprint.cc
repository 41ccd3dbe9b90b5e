#include "bulk/fingerprint.h"

#include <sys/stat.h>

#include <array>
#include <filesystem>
#include <set>
#include <span>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/content_hash.h"
#include "base/file_map.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "bulk/listing.h"

namespace siglip::bulk {
namespace {

// What src/checkpoint and src/text read beside the weights.
constexpr std::array<const char*, 8> kSettings = {
    "added_tokens.json",       "config.json",  "preprocessor_config.json", "processor_config.json",
    "special_tokens_map.json", "spiece.model", "tokenizer.json",           "tokenizer_config.json"};
// The first is read if it is there, else the second and the files that it names.
constexpr const char* kWeights = "model.safetensors";
constexpr const char* kWeightIndex = "model.safetensors.index.json";
// As the loader's limit; one of 900 tensors has about 100 kB.
constexpr std::uint64_t kMaxIndexBytes = 16 << 20;
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

// The names of the weights' files in an index; none if it is broken, which the loader tells.
std::set<std::string> ShardsOf(const std::string& index) {
  const auto json = nlohmann::json::parse(index, nullptr, false);
  std::set<std::string> names;
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (map == json.end() || !map->is_object()) return names;
  for (const auto& [tensor, file] : map->items()) {
    if (file.is_string()) names.insert(std::filesystem::path(file.get<std::string>()).filename());
  }
  return names;
}

// Those that are there of the files that loading a snapshot reads, by name.
absl::StatusOr<std::vector<std::filesystem::path>> LoadedFiles(const std::string& folder) {
  std::error_code error;
  std::filesystem::directory_iterator it(folder, error);
  if (error) return absl::NotFoundError(absl::StrCat(folder, ": ", error.message()));
  std::set<std::string> names(kSettings.begin(), kSettings.end());
  const std::filesystem::path root(folder);
  if (std::filesystem::exists(root / kWeights, error)) {
    names.insert(kWeights);
  } else if (std::filesystem::exists(root / kWeightIndex, error)) {
    SIGLIP_ASSIGN_OR_RETURN(const std::string index,
                            ReadFile((root / kWeightIndex).string(), kMaxIndexBytes));
    names.insert(kWeightIndex);
    names.merge(ShardsOf(index));
  }
  std::vector<std::filesystem::path> files;
  for (const std::string& name : names) {
    if (std::filesystem::exists(root / name, error)) files.push_back(root / name);
  }
  return files;
}

}  // namespace

absl::StatusOr<std::string> CheckpointFingerprint(const std::string& folder) {
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::filesystem::path> files, LoadedFiles(folder));
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
