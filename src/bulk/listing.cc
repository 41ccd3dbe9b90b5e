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

// Those that Pillow registers for the formats that are read.
constexpr std::array<std::string_view, 26> kImageExtensions = {
    ".jpg",  ".jpeg",  ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif",
    ".bmp",  ".dib",   ".tif", ".tiff", ".ppm", ".pgm", ".pbm",  ".pnm",  ".pfm",
    ".avif", ".avifs", ".jp2", ".j2k",  ".jpc", ".jpf", ".jpx",  ".j2c"};
constexpr std::array<std::string_view, 9> kTarExtensions = {
    ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst"};
constexpr std::string_view kAnyDepth = "**/";
constexpr std::size_t kReadBytes = 1 << 16;
// Each may be a walk over the disk; more braces than these are a slip.
constexpr std::size_t kMaxPatterns = 4096;

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

// A folder is not followed, nor a device taken. What cannot be looked at, a symlink to nothing,
// say, counts as a file: whoever reads it says so.
FileType TypeBehind(const std::string& symlink) {
  return TypeOf(symlink).value_or(FileType::kFile) == FileType::kFile ? FileType::kFile
                                                                      : FileType::kOther;
}

// Only what the listing leaves open is asked for: symlinks, and file systems without types.
FileType TypeOfEntry(const dirent& entry, const std::string& path) {
  if (entry.d_type == DT_REG) return FileType::kFile;
  if (entry.d_type == DT_DIR) return FileType::kFolder;
  if (entry.d_type == DT_LNK) return TypeBehind(path);
  if (entry.d_type != DT_UNKNOWN) return FileType::kOther;
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return FileType::kFile;
  return S_ISLNK(info.st_mode) ? TypeBehind(path) : TypeOfMode(info.st_mode);
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
  const int error = ::glob(pattern.c_str(), 0, nullptr, &found);
  const std::unique_ptr<glob_t, void (*)(glob_t*)> freed(&found, ::globfree);
  if (error == GLOB_NOSPACE) {
    return absl::ResourceExhaustedError(absl::StrCat(pattern, ": too many matches for the memory"));
  }
  return std::vector<std::string>(found.gl_pathv, found.gl_pathv + found.gl_pathc);
}

// True if `relative` or one of its ends after a '/' matches, and no hidden folder is before that.
bool MatchesAtAnyDepth(const std::string& pattern, std::string_view relative) {
  for (std::size_t begin = 0;; ++begin) {
    const std::string rest(relative.substr(begin));
    if (::fnmatch(pattern.c_str(), rest.c_str(), FNM_PATHNAME | FNM_PERIOD) == 0) return true;
    begin = relative.find('/', begin);
    if (begin == std::string_view::npos || rest.front() == '.') return false;
  }
}

// Where a component `**` of the pattern begins; elsewhere two stars are as one.
std::size_t FindAnyDepth(std::string_view pattern) {
  for (std::size_t at = pattern.find(kAnyDepth); at != std::string_view::npos;
       at = pattern.find(kAnyDepth, at + 1)) {
    if (at == 0 || pattern[at - 1] == '/') return at;
  }
  return std::string_view::npos;
}

struct Match {
  std::string path;
  bool is_file;  // else it is not known yet what it is
};

// Appends the files below the folders of `pattern`, which has no braces.
absl::Status AppendAnyDepth(const std::string& pattern, std::vector<Match>& matches) {
  const std::size_t middle = FindAnyDepth(pattern);
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
          matches.push_back({base.empty() ? path.substr(skipped) : path, true});
        }));
  }
  return absl::OkStatus();
}

// A {a,b} in a pattern.
struct Braces {
  std::size_t begin = 0, end = 0;    // of the text that a choice takes the place of
  std::vector<std::string> choices;  // which may have braces of their own
};

// That which opens at `begin`. As in a shell, braces without a comma or an end are no braces.
std::optional<Braces> BracesAt(const std::string& pattern, std::size_t begin) {
  Braces braces{begin, 0, {}};
  int depth = 1;
  std::size_t choice = begin + 1;
  for (std::size_t i = choice; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\') ++i;  // what follows it is itself
    if (c == '{') ++depth;
    if (depth == 1 && (c == ',' || c == '}')) {
      braces.choices.push_back(pattern.substr(choice, i - choice));
      choice = i + 1;
    }
    if (c != '}' || --depth > 0) continue;
    braces.end = choice;
    return braces.choices.size() > 1 ? std::optional(std::move(braces)) : std::nullopt;
  }
  return std::nullopt;
}

std::optional<Braces> FirstBraces(const std::string& pattern) {
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '\\') {
      ++i;
    } else if (pattern[i] == '{') {
      if (auto braces = BracesAt(pattern, i)) return braces;
    }
  }
  return std::nullopt;
}

// The patterns that one with {a,b} stands for.
absl::StatusOr<std::vector<std::string>> ExpandBraces(const std::string& pattern) {
  std::vector<std::string> expanded, open = {pattern};
  while (!open.empty()) {
    const std::string next = std::move(open.back());
    open.pop_back();
    const std::optional<Braces> braces = FirstBraces(next);
    if (!braces.has_value()) {
      expanded.push_back(next);
    } else {
      for (const std::string& choice : braces->choices) {
        open.push_back(
            absl::StrCat(next.substr(0, braces->begin), choice, next.substr(braces->end)));
      }
    }
    if (expanded.size() + open.size() > kMaxPatterns) {
      return absl::InvalidArgumentError(absl::StrCat(pattern, ": expected braces for at most ",
                                                     kMaxPatterns, " patterns, got more"));
    }
  }
  return expanded;
}

// In byte order, and each once however many of the braces' patterns it matches.
absl::Status AppendPattern(const std::string& pattern, NameList& names) {
  const std::size_t before = names.size();
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::string> patterns, ExpandBraces(pattern));
  std::vector<Match> matches;
  for (const std::string& plain : patterns) {
    if (FindAnyDepth(plain) != std::string_view::npos) {
      SIGLIP_RETURN_IF_ERROR(AppendAnyDepth(plain, matches));
      continue;
    }
    SIGLIP_ASSIGN_OR_RETURN(std::vector<std::string> found, Glob(plain));
    for (std::string& path : found) matches.push_back({std::move(path), false});
  }
  std::sort(matches.begin(), matches.end(),
            [](const Match& a, const Match& b) { return a.path < b.path; });
  const auto end = std::unique(matches.begin(), matches.end(),
                               [](const Match& a, const Match& b) { return a.path == b.path; });
  for (auto match = matches.begin(); match != end; ++match) {
    if (!match->is_file && TypeOf(match->path) == FileType::kFolder) {
      SIGLIP_RETURN_IF_ERROR(AppendFolder(match->path, names));
    } else {
      names.Add(match->path);
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
      return absl::NotFoundError(
          absl::StrCat(path, ": no such file or folder",
                       path == "-" ? "; a picture on standard input is /dev/stdin" : ""));
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
