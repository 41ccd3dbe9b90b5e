#include "cli/model_repository.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/file_map.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "protocol/model_config.h"

namespace siglip::cli {
namespace {

namespace fs = std::filesystem;

// The largest published config.pbtxt files have a few hundred kB.
constexpr std::uint64_t kMaxConfigBytes = 4 << 20;

// Numbered subfolders, ascending. Like Triton, others are no versions.
std::vector<std::int64_t> ReadVersions(const fs::path& folder) {
  std::vector<std::int64_t> versions;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const auto version = ParseInt<std::int64_t>(name);
    if (!entry.is_directory(error) || !version || *version < 1 || name[0] == '0') continue;
    versions.push_back(*version);
  }
  std::sort(versions.begin(), versions.end());
  return versions;
}

absl::StatusOr<ModelConfig> ReadModel(const fs::path& folder) {
  const std::string path = (folder / "config.pbtxt").string();
  SIGLIP_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxConfigBytes));
  SIGLIP_ASSIGN_OR_RETURN(ModelConfig config, ParseModelConfig(text, path));
  const std::string folder_name = folder.filename().string();
  if (config.name.empty()) config.name = folder_name;
  if (config.name != folder_name) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": name: expected \"", folder_name, "\" like the folder, got \"", config.name, "\""));
  }
  config.source = path;
  config.directory = folder.string();
  config.versions = ReadVersions(folder);
  if (config.versions.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        folder.string(), ": expected a version folder, for instance 1/ (it may be empty)"));
  }
  return config;
}

}  // namespace

absl::StatusOr<std::vector<ModelConfig>> ReadModelRepository(const std::string& repository) {
  std::error_code error;
  std::vector<fs::path> folders;
  for (fs::directory_iterator it(repository, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    if (it->is_directory(error)) folders.push_back(it->path());
  }
  if (error)
    return absl::NotFoundError(
        absl::StrCat("model repository ", repository, ": ", error.message()));
  std::sort(folders.begin(), folders.end());
  std::vector<ModelConfig> configs;
  for (const fs::path& folder : folders) {
    if (!fs::exists(folder / "config.pbtxt", error)) {
      SIGLIP_LOG_WARN("repository folder={} has no config.pbtxt, skipped",
                      LogSafe(folder.string()));
      continue;
    }
    SIGLIP_ASSIGN_OR_RETURN(ModelConfig config, ReadModel(folder));
    configs.push_back(std::move(config));
  }
  if (configs.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("model repository ", repository, ": holds no model"));
  }
  return configs;
}

}  // namespace siglip::cli
