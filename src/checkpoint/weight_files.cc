#include "checkpoint/weight_files.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "checkpoint/json.h"
#include "checkpoint/json_fields.h"

namespace siglip {
namespace {

using nlohmann::json;

constexpr const char* kSingleFile = "model.safetensors";
// What a folder may have in their place.
constexpr std::pair<const char*, const char*> kOtherWeights[] = {
    {"pytorch_model.bin", "which is not read: load the folder with transformers and save it again"},
    {"adapter_model.safetensors",
     "which is an adapter (LoRA): merge it into its model with peft and save that"},
};
// One of 900 tensors has about 100 kB.
constexpr std::uint64_t kMaxIndexBytes = 16 << 20;

// A shard's name comes from the index, which is input: it must be of a file in this folder, or in
// one below it.
bool IsBelow(const std::string& name) {
  if (name.find('\0') != std::string::npos) return false;
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(name, '/'))) {
    if (part.empty() || part == "." || part == "..") return false;
  }
  return true;
}

// tensor name -> file name
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  SIGLIP_ASSIGN_OR_RETURN(const json root, ReadJsonFile(path, kMaxIndexBytes));
  const auto bad = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
  };
  if (!root.is_object() || !root.contains("weight_map") || !root["weight_map"].is_object()) {
    return bad("expected an object with \"weight_map\"");
  }
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : root["weight_map"].items()) {
    if (!file.is_string() || !IsBelow(file.get_ref<const std::string&>())) {
      return bad(absl::StrCat("weight_map: \"", tensor,
                              "\": expected the name of a file in this folder or below it, got ",
                              ShortDump(file)));
    }
    files[tensor] = file.get<std::string>();
  }
  if (files.empty()) return bad("weight_map is empty");
  return files;
}

}  // namespace

absl::StatusOr<WeightFiles> FindWeightFiles(const std::string& directory) {
  WeightFiles files;
  if (HasEntry(absl::StrCat(directory, "/", kSingleFile))) {
    files.names.insert(kSingleFile);
    return files;
  }
  const std::string index = absl::StrCat(directory, "/", kWeightIndexFile);
  if (!HasEntry(index)) {
    std::string found = "neither";
    for (const auto& [file, advice] : kOtherWeights) {
      if (!HasEntry(absl::StrCat(directory, "/", file))) continue;
      found = absl::StrCat(file, " alone, ", advice);
      break;
    }
    return absl::NotFoundError(absl::StrCat(directory, ": expected ", kSingleFile, " or ",
                                            kWeightIndexFile, ", found ", found));
  }
  SIGLIP_ASSIGN_OR_RETURN(files.file_of, ReadIndex(index));
  for (const auto& [tensor, file] : files.file_of) files.names.insert(file);
  return files;
}

}  // namespace siglip
