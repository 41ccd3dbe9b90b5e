#include "checkpoint/weight_files.h"

#include <cstdint>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "checkpoint/json.h"
#include "checkpoint/json_fields.h"

namespace siglip {
namespace {

using nlohmann::json;

constexpr const char* kSingleFile = "model.safetensors";
// What transformers wrote before safetensors.
constexpr const char* kPickledFile = "pytorch_model.bin";
// One of 900 tensors has about 100 kB.
constexpr std::uint64_t kMaxIndexBytes = 16 << 20;

// A shard's name comes from the index, which is input: it must be a plain file name of this folder.
bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos && name != "." && name != "..";
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
    if (!file.is_string() || !IsPlainFileName(file.get_ref<const std::string&>())) {
      return bad(absl::StrCat("weight_map: \"", tensor,
                              "\": expected a file name of this folder, got ", ShortDump(file)));
    }
    files[tensor] = file.get<std::string>();
  }
  if (files.empty()) return bad("weight_map is empty");
  return files;
}

}  // namespace

absl::StatusOr<WeightFiles> FindWeightFiles(const std::string& directory) {
  WeightFiles files;
  std::error_code error;
  if (std::filesystem::exists(absl::StrCat(directory, "/", kSingleFile), error)) {
    files.names.insert(kSingleFile);
    return files;
  }
  const std::string index = absl::StrCat(directory, "/", kWeightIndexFile);
  if (!std::filesystem::exists(index, error)) {
    const bool pickled = std::filesystem::exists(absl::StrCat(directory, "/", kPickledFile), error);
    return absl::NotFoundError(
        absl::StrCat(directory, ": expected ", kSingleFile, " or ", kWeightIndexFile, ", found ",
                     pickled ? absl::StrCat(kPickledFile,
                                            " alone, which is not read: load the folder with "
                                            "transformers and save it again")
                             : "neither"));
  }
  SIGLIP_ASSIGN_OR_RETURN(files.file_of, ReadIndex(index));
  for (const auto& [tensor, file] : files.file_of) files.names.insert(file);
  return files;
}

}  // namespace siglip
