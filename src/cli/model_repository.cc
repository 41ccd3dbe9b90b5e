#include "cli/model_repository.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/file_map.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "checkpoint/config.h"
#include "cli/fnv.h"
#include "deployments/built_in_configs.h"
#include "protocol/model_config.h"
#include "serving/config_check.h"

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

absl::StatusOr<ModelConfig> ReadModel(const fs::path& folder, const std::string& path) {
  SIGLIP_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxConfigBytes));
  SIGLIP_ASSIGN_OR_RETURN(ModelConfig config, ParseModelConfig(text, path));
  const std::string folder_name = folder.filename().string();
  if (config.name.empty()) config.name = folder_name;
  if (config.name != folder_name) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ":", config.lines["name"], ": name: expected \"", folder_name,
                     "\" like the folder, got \"", config.name, "\""));
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

absl::StatusOr<std::vector<fs::path>> Subfolders(const std::string& repository) {
  std::error_code error;
  std::vector<fs::path> folders;
  for (fs::directory_iterator it(repository, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    if (it->is_directory(error)) folders.push_back(it->path());
  }
  if (error) {
    return absl::NotFoundError(
        absl::StrCat("model repository ", repository, ": ", error.message()));
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

bool IsNaflex(const std::string& checkpoint) {
  const std::string path = checkpoint + "/config.json";
  const auto text = ReadFile(path, kMaxConfigBytes);
  if (!text.ok()) return false;
  const auto config = ParseSiglipConfig(*text, path);
  return config.ok() && config->vision.naflex();
}

bool HasConfig(const fs::path& folder) {
  std::error_code error;
  return fs::exists(folder / "config.pbtxt", error) || fs::exists(folder / "configs", error);
}

bool IsModelFolder(const fs::path& folder) {
  return IsModelName(folder.filename().string()) && HasConfig(folder);
}

}  // namespace

absl::StatusOr<std::unique_ptr<FolderRepository>> FolderRepository::Open(
    std::vector<std::string> repositories, std::string config_name) {
  if (config_name.find('/') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("model config name: expected a file's name, got '", config_name, "'"));
  }
  std::map<std::string, std::string> found;
  for (const std::string& repository : repositories) {
    SIGLIP_ASSIGN_OR_RETURN(const std::vector<fs::path> folders, Subfolders(repository));
    for (const fs::path& folder : folders) {
      const std::string name = folder.filename().string();
      if (!HasConfig(folder)) {
        SIGLIP_LOG_WARN("repository folder={} has no config.pbtxt, skipped",
                        LogSafe(folder.string()));
      } else if (!IsModelName(name)) {
        SIGLIP_LOG_WARN("repository folder={} is skipped, expected a name of {}",
                        LogSafe(folder.string()), kModelNameRule);
      } else if (const auto [it, is_new] = found.emplace(name, folder.string()); !is_new) {
        return absl::InvalidArgumentError(absl::StrCat(folder.string(), ": model '", name,
                                                       "': expected each name once, ", it->second,
                                                       " has it too"));
      }
    }
  }
  if (found.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model repository ", repositories.empty() ? "" : repositories[0], ": holds no model"));
  }
  return std::unique_ptr<FolderRepository>(
      new FolderRepository(std::move(repositories), std::move(config_name)));
}

std::vector<std::string> FolderRepository::Names() const {
  std::vector<std::string> names;
  for (const std::string& repository : repositories_) {
    const auto folders = Subfolders(repository);
    if (!folders.ok()) {
      SIGLIP_LOG_WARN("repository unreadable folder={}", LogSafe(repository));
      continue;
    }
    for (const fs::path& folder : *folders) {
      if (IsModelFolder(folder)) names.push_back(folder.filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string FolderRepository::FolderOf(const std::string& name) const {
  for (const std::string& repository : repositories_) {
    const auto folders = Subfolders(repository);
    if (!folders.ok()) continue;
    for (const fs::path& folder : *folders) {
      if (folder.filename().string() == name && IsModelFolder(folder)) return folder.string();
    }
  }
  return {};
}

absl::StatusOr<ModelConfig> FolderRepository::Read(const std::string& name) const {
  const fs::path folder = FolderOf(name);
  if (folder.empty()) {
    return absl::NotFoundError(absl::StrCat("model '", name, "' is not in the model repository"));
  }
  std::error_code error;
  const fs::path chosen = folder / "configs" / (config_name_ + ".pbtxt");
  const bool is_chosen = !config_name_.empty() && fs::exists(chosen, error);
  return ReadModel(folder, (is_chosen ? chosen : folder / "config.pbtxt").string());
}

std::uint64_t FolderRepository::Stamp(const std::string& name) const {
  const std::string folder = FolderOf(name);
  std::vector<std::string> lines;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error);
       !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    const auto file = IdentifyFile(it->path().string());
    lines.push_back(absl::StrCat(it->path().string(), " ", file.ok() ? file->bytes : 0, " ",
                                 file.ok() ? file->modified_ns : 0));
  }
  std::sort(lines.begin(), lines.end());
  std::uint64_t stamp = kFnvStart;
  for (const std::string& line : lines) stamp = Fnv(line, stamp);
  return stamp;
}

absl::StatusOr<std::unique_ptr<ModelRepository>> BuiltInRepository(const std::string& checkpoint) {
  const bool naflex = IsNaflex(checkpoint);
  std::vector<ModelConfig> configs;
  for (const BuiltInConfig& built_in : BuiltInConfigs()) {
    const std::string_view text =
        naflex && !built_in.naflex.empty() ? built_in.naflex : built_in.text;
    SIGLIP_ASSIGN_OR_RETURN(
        ModelConfig config,
        ParseModelConfig(text, absl::StrCat("built-in ", std::string(built_in.name))));
    config.source = "built-in";
    config.lines.clear();  // nobody sees its text
    config.versions = {1};
    configs.push_back(std::move(config));
  }
  return std::make_unique<ListedModels>(std::move(configs));
}

}  // namespace siglip::cli
