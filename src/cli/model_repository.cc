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

// Whether an entry's error says that there is nothing to serve. Others (EIO, ESTALE) say that
// nobody knows.
bool IsNothing(const std::error_code& error) {
  return error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory ||
         error == std::errc::permission_denied || error == std::errc::too_many_symbolic_link_levels;
}

// Sorted. Symlinks to folders are folders; what they lead nowhere to is skipped.
absl::StatusOr<std::vector<fs::path>> Subfolders(const fs::path& parent) {
  std::error_code error;
  std::vector<fs::path> folders;
  // Without an error code in its hand the iterator throws.
  for (fs::directory_iterator it(parent, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    std::error_code entry_error;
    if (it->is_directory(entry_error)) folders.push_back(it->path());
    if (entry_error && !IsNothing(entry_error)) {
      error = entry_error;
      break;
    }
  }
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot read ", parent.string()));
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

// Numbered subfolders, ascending. Like Triton, others are no versions.
absl::StatusOr<std::vector<std::int64_t>> ReadVersions(const fs::path& folder) {
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<fs::path> subfolders, Subfolders(folder));
  std::vector<std::int64_t> versions;
  for (const fs::path& subfolder : subfolders) {
    const std::string name = subfolder.filename().string();
    const auto version = ParseInt<std::int64_t>(name);
    if (version && *version >= 1 && name[0] != '0') versions.push_back(*version);
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
  SIGLIP_ASSIGN_OR_RETURN(config.versions, ReadVersions(folder));
  if (config.versions.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        folder.string(), ": expected a version folder, for instance 1/ (it may be empty)"));
  }
  return config;
}

bool IsNaflex(const std::string& checkpoint) {
  const auto config = ReadSiglipConfig(checkpoint);
  return config.ok() && config->vision.naflex();
}

absl::StatusOr<bool> IsThere(const fs::path& path) {
  std::error_code error;
  const bool there = fs::exists(path, error);
  if (!error || IsNothing(error)) return there;
  return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot read ", path.string()));
}

absl::StatusOr<bool> HasConfig(const fs::path& folder) {
  SIGLIP_ASSIGN_OR_RETURN(const bool one, IsThere(folder / "config.pbtxt"));
  return one ? one : IsThere(folder / "configs");
}

// The folders of a repository, whether they hold models or not.
absl::StatusOr<std::vector<fs::path>> FoldersOf(const std::string& repository) {
  absl::StatusOr<std::vector<fs::path>> folders = Subfolders(repository);
  if (folders.ok()) return folders;
  return absl::Status(folders.status().code(), absl::StrCat("model repository ", repository, ": ",
                                                            folders.status().message()));
}

absl::StatusOr<bool> IsModelFolder(const fs::path& folder) {
  if (!IsModelName(folder.filename().string())) return false;
  return HasConfig(folder);
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
    SIGLIP_ASSIGN_OR_RETURN(const std::vector<fs::path> folders, FoldersOf(repository));
    for (const fs::path& folder : folders) {
      const std::string name = folder.filename().string();
      SIGLIP_ASSIGN_OR_RETURN(const bool has_config, HasConfig(folder));
      if (!has_config) {
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

absl::StatusOr<std::vector<std::string>> FolderRepository::Names() const {
  std::vector<std::string> names;
  for (const std::string& repository : repositories_) {
    SIGLIP_ASSIGN_OR_RETURN(const std::vector<fs::path> folders, FoldersOf(repository));
    for (const fs::path& folder : folders) {
      SIGLIP_ASSIGN_OR_RETURN(const bool is_model, IsModelFolder(folder));
      if (is_model) names.push_back(folder.filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::string> FolderRepository::FolderOf(const std::string& name) const {
  for (const std::string& repository : repositories_) {
    SIGLIP_ASSIGN_OR_RETURN(const std::vector<fs::path> folders, FoldersOf(repository));
    for (const fs::path& folder : folders) {
      if (folder.filename().string() != name) continue;
      SIGLIP_ASSIGN_OR_RETURN(const bool is_model, IsModelFolder(folder));
      if (is_model) return folder.string();
    }
  }
  return absl::NotFoundError(absl::StrCat("model '", name, "' is not in the model repository"));
}

absl::StatusOr<ModelConfig> FolderRepository::Read(const std::string& name) const {
  SIGLIP_ASSIGN_OR_RETURN(const fs::path folder, FolderOf(name));
  std::error_code error;
  const fs::path chosen = folder / "configs" / (config_name_ + ".pbtxt");
  const bool is_chosen = !config_name_.empty() && fs::exists(chosen, error);
  return ReadModel(folder, (is_chosen ? chosen : folder / "config.pbtxt").string());
}

std::uint64_t FolderRepository::Stamp(const std::string& name) const {
  const absl::StatusOr<std::string> folder = FolderOf(name);
  std::vector<std::string> lines;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder.ok() ? *folder : std::string(), error);
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
