#include "cli/output_places.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"

namespace siglip::cli {
namespace {

struct OutputPlace {
  std::string path;
  std::string canonical;
  FileIdentity identity;  // zeros if there is no file yet

  bool IsFile(const FileIdentity& other) const {
    return identity.inode != 0 && identity.inode == other.inode && identity.device == other.device;
  }
};

absl::StatusOr<OutputPlace> LookAt(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status there = std::filesystem::status(path, error);
  if (std::filesystem::is_directory(there)) {
    return absl::InvalidArgumentError(absl::StrCat("output ", path, ": is a folder"));
  }
  const std::filesystem::path target = ReplaceablePath(path).value_or(path);
  const std::filesystem::path folder = std::filesystem::absolute(target, error).parent_path();
  if (!std::filesystem::is_directory(folder, error)) {
    return absl::InvalidArgumentError(
        absl::StrCat("output ", path, ": there is no folder ", folder.string()));
  }
  OutputPlace place{
      path, std::filesystem::weakly_canonical(folder / target.filename(), error).string(), {}};
  if (std::filesystem::is_regular_file(there)) {
    if (const auto identity = IdentifyFile(path); identity.ok()) place.identity = *identity;
  }
  return place;
}

std::string_view ExtensionOf(std::string_view path) {
  const std::size_t dot = path.find_last_of("./");
  return dot == std::string_view::npos || path[dot] == '/' ? std::string_view() : path.substr(dot);
}

}  // namespace

absl::Status CheckOutputFolder(const std::string& path) {
  std::error_code error;
  if (path.empty() || std::filesystem::is_directory(path, error)) return absl::OkStatus();
  if (std::filesystem::exists(std::filesystem::symlink_status(path, error))) {
    return absl::InvalidArgumentError(absl::StrCat("output ", path, ": is no folder"));
  }
  return LookAt(path).status();
}

absl::Status CheckOutputPlaces(std::span<const std::string> outputs,
                               std::span<const std::string> lists, const bulk::NameList& inputs) {
  std::vector<OutputPlace> places;
  for (const std::string& path : outputs) {
    if (path.empty()) continue;
    if (path == "-") {
      return absl::InvalidArgumentError(
          "output -: expected a file, since stdout has other lines already (./- is one of that "
          "name)");
    }
    absl::StatusOr<OutputPlace> place = LookAt(path);
    if (!place.ok()) return place.status();
    for (const OutputPlace& other : places) {
      if (other.canonical != place->canonical && !other.IsFile(place->identity)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("outputs ", other.path, " and ", path, " are one file"));
    }
    places.push_back(*std::move(place));
  }
  for (const OutputPlace& place : places) {
    if (absl::Status status = CheckOutputFile(place.path); !status.ok()) return status;
  }
  std::erase_if(places, [](const OutputPlace& place) { return place.identity.inode == 0; });
  const auto check = [&places](const std::string& input) {
    const auto identity = IdentifyFile(input);
    for (const OutputPlace& place : places) {
      if (!identity.ok() || !place.IsFile(*identity)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("output ", place.path, " is the input ", input, ", which would be lost"));
    }
    return absl::OkStatus();
  };
  if (places.empty()) return absl::OkStatus();
  for (const std::string& list : lists) {
    if (list.empty() || list == "-") continue;
    if (absl::Status status = check(list); !status.ok()) return status;
  }
  // Of millions of pictures only those are asked for that can be it.
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const std::string_view input = inputs[i];
    const bool alike = std::any_of(places.begin(), places.end(), [&](const OutputPlace& place) {
      return ExtensionOf(place.path) == ExtensionOf(input) ||
             ExtensionOf(place.canonical) == ExtensionOf(input);
    });
    if (!alike) continue;
    if (absl::Status status = check(std::string(input)); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace siglip::cli
