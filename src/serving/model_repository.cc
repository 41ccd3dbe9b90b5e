#include "serving/model_repository.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "serving/config_check.h"

namespace siglip {

absl::StatusOr<std::vector<std::string>> ListedModels::Names() const {
  std::vector<std::string> names;
  for (const ModelConfig& config : configs_) names.push_back(config.name);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<ModelConfig> ListedModels::Read(const std::string& name) const {
  for (const ModelConfig& config : configs_) {
    if (config.name == name) return config;
  }
  return absl::NotFoundError(absl::StrCat("model '", name, "' is not in the repository"));
}

absl::Status CheckNames(const std::vector<ModelConfig>& configs) {
  std::map<std::string, std::string> sources;
  for (const ModelConfig& config : configs) {
    const auto [it, is_new] = sources.emplace(config.name, config.source);
    if (!is_new) {
      return ConfigError(config, "name",
                         absl::StrCat("expected each name once, ", it->second, " has it too"));
    }
  }
  return absl::OkStatus();
}

}  // namespace siglip
