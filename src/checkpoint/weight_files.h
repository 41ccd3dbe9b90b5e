#pragma once

// Which files of a snapshot folder hold its weights.

#include <map>
#include <set>
#include <string>

#include "absl/status/statusor.h"

namespace siglip {

inline constexpr const char* kWeightIndexFile = "model.safetensors.index.json";

struct WeightFiles {
  std::set<std::string> names;  // in the folder, or in folders below it
  // Which of them holds a tensor, by the index. Empty: there is no index, or none that counts.
  std::map<std::string, std::string> file_of;
};

// model.safetensors if it is there, else the files that model.safetensors.index.json names.
// NotFound if there is neither, InvalidArgument for an index that names files elsewhere.
absl::StatusOr<WeightFiles> FindWeightFiles(const std::string& directory);

}  // namespace siglip
