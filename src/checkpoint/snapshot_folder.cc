#include "checkpoint/snapshot_folder.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file_map.h"

namespace siglip {
namespace {

namespace fs = std::filesystem;

// A commit's name in hexadecimal digits has 40 bytes.
constexpr std::uint64_t kMaxRefBytes = 256;
// A folder has one for each commit that was downloaded; an error names so many.
constexpr std::size_t kMaxSnapshotsNamed = 3;

// "owner/model", of the characters that the hub allows.
bool IsHubName(std::string_view name) {
  const std::size_t slash = name.find('/');
  const auto is_word = [](std::string_view word) {
    return !word.empty() && word.front() != '.' && word.front() != '-' &&
           std::all_of(word.begin(), word.end(), [](char c) {
             return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' ||
                    c == '.';
           });
  };
  return slash != std::string_view::npos && is_word(name.substr(0, slash)) &&
         is_word(name.substr(slash + 1));
}

// Those of the cache's folder of a model; the one that the branch "main" names alone, if there is.
std::vector<std::string> SnapshotsOf(const std::string& directory) {
  const fs::path snapshots = fs::path(directory) / "snapshots";
  std::error_code error;
  if (absl::StatusOr<std::string> main = ReadFile(directory + "/refs/main", kMaxRefBytes);
      main.ok()) {
    const fs::path named = snapshots / std::string(absl::StripAsciiWhitespace(*main));
    if (fs::is_directory(named, error)) return {named.string()};
  }
  std::vector<std::string> found;
  for (fs::directory_iterator entry(snapshots, error), end; !error && entry != end;
       entry.increment(error)) {
    found.push_back(entry->path().string());
  }
  std::sort(found.begin(), found.end());
  if (found.size() > kMaxSnapshotsNamed) found.resize(kMaxSnapshotsNamed);
  return found;
}

}  // namespace

absl::Status CheckSnapshotFolder(const std::string& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    if (fs::exists(directory, error)) {
      return absl::NotFoundError(
          absl::StrCat(directory, ": expected the folder of a checkpoint, got a file"));
    }
    return absl::NotFoundError(
        absl::StrCat(directory, ": no such folder",
                     IsHubName(directory)
                         ? absl::StrCat("; a model of the Hugging Face hub is downloaded into one "
                                        "with `hf download ",
                                        directory, " --local-dir FOLDER`")
                         : ""));
  }
  if (HasEntry(directory + "/config.json")) return absl::OkStatus();
  const std::vector<std::string> snapshots = SnapshotsOf(directory);
  if (snapshots.empty()) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat(directory, ": a model's folder in the Hugging Face cache; the checkpoint is in ",
                   absl::StrJoin(snapshots, " or ")));
}

}  // namespace siglip
