#include "bulk/listing.h"

#include <dirent.h>
#include <fnmatch.h>
#include <glob.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/byte_order_mark.h"
#include "base/status_macros.h"

namespace siglip::bulk {
namespace {

constexpr std::array<std::string_view, 22> kImageExtensions = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib",
    ".tif", ".tiff", ".ppm", ".pgm",  ".pbm", ".pnm", ".pfm",  ".avif", ".jp2", ".j2k", ".jpx"};
constexpr std::array<std::string_view, 9> kTarExtensions = {
    ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst"};
constexpr std::string_view kAnyDepth = "**/";
constexpr std::size_t kReadBytes = 1 << 16;

template <std::size_t N>
bool EndsWithAny(std::string_view path, const std::array<std::string_view, N>& extensions) {
  return std::any_of(extensions.begin(), extensions.end(), [&](std::string_view extension) {
    return path.size() > extension.size() &&
           absl::EndsWithIgnoreCase({path.data(), path.size()},
                                    {extension.data(), extension.size()});
  });
}

enum class FileType { kFile, kFolder, kOther };

FileType TypeOfMode(mode_t mode) {
  if (S_ISREG(mode)) return FileType::kFile;
  return S_ISDIR(mode) ? FileType::kFolder : FileType::kOther;
}

std::optional<FileType> TypeOf(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return std::nullopt;
  return TypeOfMode(info.st_mode);
}

// Only what the listing leaves open is asked for: symlinks, and file systems without types.
FileType TypeOfEntry(const dirent& entry, const std::string& path) {
  if (entry.d_type == DT_REG) return FileType::kFile;
  if (entry.d_type == DT_DIR) return FileType::kFolder;
  if (entry.d_type == DT_LNK) {
    return TypeOf(path) == FileType::kFile ? FileType::kFile : FileType::kOther;
  }
  if (entry.d_type != DT_UNKNOWN) return FileType::kOther;
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return FileType::kOther;
  if (!S_ISLNK(info.st_mode)) return TypeOfMode(info.st_mode);
  return TypeOf(path) == FileType::kFile ? FileType::kFile : FileType::kOther;
}

using OnFile = std::function<void(const std::string& path)>;

std::string Joined(const std::string& folder, std::string_view name) {
  return absl::StrCat(folder, absl::EndsWith(folder, "/") ? "" : "/",
                      absl::string_view(name.data(), name.size()));
}

// Files below `folder` for which `wanted` holds, in byte order of their whole paths: a folder sorts
// as its name with '/'.
absl::Status Walk(const std::string& folder, const std::function<bool(std::string_view)>& wanted,
                  const OnFile& on_file) {
  std::vector<std::string> names;  // folders with a '/' at the end
  {
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(folder.c_str()), ::closedir);
    if (stream == nullptr) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot list folder '", folder, "'"));
    }
    while (true) {
      errno = 0;  // what else is asked for below may set it
      const dirent* entry = ::readdir(stream.get());
      if (entry == nullptr) break;
      const std::string_view name = entry->d_name;
      if (name == "." || name == "..") continue;
      if (entry->d_type == DT_REG && !wanted(name)) continue;
      const FileType type = TypeOfEntry(*entry, Joined(folder, name));
      if (type == FileType::kFolder) names.push_back(std::string(name) + '/');
      if (type == FileType::kFile && wanted(name)) names.emplace_back(name);
    }
    if (errno != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot list folder '", folder, "'"));
    }
  }
  std::sort(names.begin(), names.end());
  for (std::string& name : names) {
    if (name.back() != '/') {
      on_file(Joined(folder, name));
      continue;
    }
    name.pop_back();
    SIGLIP_RETURN_IF_ERROR(Walk(Joined(folder, name), wanted, on_file));
  }
  return absl::OkStatus();
}

bool WantedInFolder(std::string_view name) {
  return HasImageExtension(name) || EndsWithAny(name, kTarExtensions);
}

absl::Status AppendFolder(const std::string& folder, NameList& names) {
  return Walk(folder, WantedInFolder, [&](const std::string& path) { names.Add(path); });
}

// What glob(3) matches. A folder that cannot be read matches nothing.
absl::StatusOr<std::vector<std::string>> Glob(const std::string& pattern) {
  glob_t found{};
  const int error = ::glob(pattern.c_str(), GLOB_BRACE, nullptr, &found);
  const std::unique_ptr<glob_t, void (*)(glob_t*)> freed(&found, ::globfree);
  if (error == GLOB_NOSPACE) {
    return absl::ResourceExhaustedError(absl::StrCat(pattern, ": too many matches for the memory"));
  }
  return std::vector<std::string>(found.gl_pathv, found.gl_pathv + found.gl_pathc);
}

// True if `relative` or one of its ends after a '/' matches.
bool MatchesAtAnyDepth(const std::string& pattern, std::string_view relative) {
  for (std::size_t begin = 0;; ++begin) {
    const std::string rest(relative.substr(begin));
    if (::fnmatch(pattern.c_str(), rest.c_str(), FNM_PATHNAME | FNM_PERIOD) == 0) return true;
    begin = relative.find('/', begin);
    if (begin == std::string_view::npos) return false;
  }
}

absl::Status AppendAnyDepth(const std::string& pattern, NameList& names) {
  const std::size_t middle = pattern.find(kAnyDepth);
  const std::string rest = pattern.substr(middle + kAnyDepth.size());
  if (absl::StrContains(rest, "**") || rest.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(pattern, ": expected at most one **, followed by / and a pattern of files"));
  }
  const std::string base = pattern.substr(0, middle);
  std::vector<std::string> folders = {"."};
  if (!base.empty()) {
    SIGLIP_ASSIGN_OR_RETURN(folders, Glob(base));
  }
  for (const std::string& folder : folders) {
    if (TypeOf(folder) != FileType::kFolder) continue;
    const std::size_t skipped = absl::EndsWith(folder, "/") ? folder.size() : folder.size() + 1;
    SIGLIP_RETURN_IF_ERROR(Walk(
        folder, [](std::string_view) { return true; },
        [&](const std::string& path) {
          if (!MatchesAtAnyDepth(rest, std::string_view(path).substr(skipped))) return;
          names.Add(base.empty() ? path.substr(skipped) : path);
        }));
  }
  return absl::OkStatus();
}

absl::Status AppendPattern(const std::string& pattern, NameList& names) {
  const std::size_t before = names.size();
  if (absl::StrContains(pattern, std::string(kAnyDepth))) {
    SIGLIP_RETURN_IF_ERROR(AppendAnyDepth(pattern, names));
  } else {
    SIGLIP_ASSIGN_OR_RETURN(std::vector<std::string> matches, Glob(pattern));
    std::sort(matches.begin(), matches.end());
    for (const std::string& match : matches) {
      if (TypeOf(match) == FileType::kFolder) {
        SIGLIP_RETURN_IF_ERROR(AppendFolder(match, names));
      } else {
        names.Add(match);
      }
    }
  }
  if (names.size() > before) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(pattern, ": no file matches this pattern"));
}

void AddEntry(std::string_view entry, char separator, NameList& names) {
  if (separator == '\n' && entry.ends_with('\r')) entry.remove_suffix(1);
  if (!entry.empty()) names.Add(entry);
}

}  // namespace

InputKind KindOf(std::string_view path) {
  if (EndsWithAny(path, kTarExtensions)) return InputKind::kTar;
  return EndsWithAny(path, std::array<std::string_view, 1>{".parquet"}) ? InputKind::kParquet
                                                                        : InputKind::kImage;
}

bool HasImageExtension(std::string_view path) { return EndsWithAny(path, kImageExtensions); }

absl::Status ListInputs(const std::vector<std::string>& paths, NameList& names) {
  for (const std::string& path : paths) {
    const std::optional<FileType> type = TypeOf(path);
    if (type == FileType::kFolder) {
      SIGLIP_RETURN_IF_ERROR(AppendFolder(path, names));
    } else if (type.has_value()) {
      names.Add(path);
    } else if (path.find_first_of("*?[{") != std::string::npos) {
      SIGLIP_RETURN_IF_ERROR(AppendPattern(path, names));
    } else {
      return absl::NotFoundError(absl::StrCat(path, ": no such file or folder"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadNameList(const std::string& path, char separator, NameList& names) {
  const bool standard_input = path == "-";
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
      standard_input ? stdin : std::fopen(path.c_str(), "rbe"),
      [](std::FILE* f) { return f == stdin ? 0 : std::fclose(f); });
  if (file == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open '", path, "'"));
  std::string rest;  // an entry whose end was not read yet
  std::string block(kReadBytes, '\0');
  bool begun = false;
  while (const std::size_t count = std::fread(block.data(), 1, block.size(), file.get())) {
    std::string_view text(block.data(), count);
    if (!begun && separator == '\n' && text.starts_with(kByteOrderMark)) {
      text.remove_prefix(kByteOrderMark.size());
    }
    begun = true;
    for (std::size_t end = text.find(separator); end != std::string_view::npos;
         end = text.find(separator)) {
      rest.append(text.substr(0, end));
      AddEntry(rest, separator, names);
      rest.clear();
      text.remove_prefix(end + 1);
    }
    rest.append(text);
  }
  if (std::ferror(file.get()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read '", path, "'"));
  }
  AddEntry(rest, separator, names);
  return absl::OkStatus();
}

}  // namespace siglip::bulk
