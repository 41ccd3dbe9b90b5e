#include "checkpoint/fingerprint.h"

#include <array>
#include <filesystem>
#include <set>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/content_hash.h"
#include "base/file_map.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "checkpoint/snapshot_folder.h"
#include "checkpoint/weight_files.h"

namespace siglip {
namespace {

// What this folder and src/text read beside the weights.
constexpr std::array<const char*, 8> kSettings = {
    "added_tokens.json",       "config.json",  "preprocessor_config.json", "processor_config.json",
    "special_tokens_map.json", "spiece.model", "tokenizer.json",           "tokenizer_config.json"};

}  // namespace

absl::StatusOr<std::string> CheckpointFingerprint(const std::string& folder) {
  SIGLIP_RETURN_IF_ERROR(CheckSnapshotFolder(folder));
  SIGLIP_ASSIGN_OR_RETURN(const WeightFiles weights, FindWeightFiles(folder));
  std::set<std::string> names(kSettings.begin(), kSettings.end());
  names.insert(weights.names.begin(), weights.names.end());
  if (!weights.file_of.empty()) names.insert(kWeightIndexFile);
  Sha256 hash;
  for (const std::string& name : names) {
    const std::filesystem::path file = std::filesystem::path(folder) / name;
    if (!HasEntry(file.string())) continue;
    SIGLIP_ASSIGN_OR_RETURN(const FileMap map, FileMap::Open(file.string()));
    const auto bytes = map.bytes();
    hash.AddField(name);
    hash.AddField(absl::StrCat(bytes.size()));
    if (file.extension() == ".safetensors") {
      hash.AddField(absl::StrCat(ContentHash(bytes)));
    } else {
      hash.Add({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    }
  }
  return hash.Hex();
}

}  // namespace siglip
