#include "cli/image_files.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace siglip::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 22> kImageExtensions = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib",
    ".tif", ".tiff", ".ppm", ".pgm",  ".pbm", ".pnm", ".pfm",  ".avif", ".jp2", ".j2k", ".jpx"};

bool HasImageExtension(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return std::find(kImageExtensions.begin(), kImageExtensions.end(), extension) !=
         kImageExtensions.end();
}

absl::Status AppendFolder(const std::string& folder, std::vector<std::string>& files) {
  const std::size_t first = files.size();
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    std::error_code ignored;
    if (HasImageExtension(it->path()) && it->is_regular_file(ignored)) {
      files.push_back(it->path().string());
    }
  }
  if (error) {
    return absl::PermissionDeniedError(absl::StrCat("folder ", folder, ": ", error.message()));
  }
  std::sort(files.begin() + static_cast<std::ptrdiff_t>(first), files.end());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ExpandImagePaths(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (!fs::exists(status)) {
      return absl::NotFoundError(absl::StrCat(path, ": no such file or folder"));
    }
    if (!fs::is_directory(status)) {
      files.push_back(path);
      continue;
    }
    const absl::Status walked = AppendFolder(path, files);
    if (!walked.ok()) return walked;
  }
  return files;
}

}  // namespace siglip::cli
