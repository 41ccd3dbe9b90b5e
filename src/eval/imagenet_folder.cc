#include "eval/imagenet_folder.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/byte_order_mark.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "text/canonicalize.h"
#include "text/utf8.h"

namespace siglip {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMappingName = "LOC_synset_mapping.txt";
// ImageNet's mapping has 32 kB; this only bounds a wrong file.
constexpr std::uint64_t kMaxMappingBytes = 64 << 20;
// Named in a remark; more are counted.
constexpr std::size_t kMaxNamed = 5;

std::string NameSome(const std::vector<std::string>& names) {
  const std::size_t shown = std::min(names.size(), kMaxNamed);
  std::string text = absl::StrJoin(names.begin(), names.begin() + static_cast<long>(shown), ", ");
  if (names.size() > shown) absl::StrAppend(&text, " and ", names.size() - shown, " more");
  return text;
}

// Python's str.split().
std::vector<std::string> SplitWords(std::u32string_view line) {
  std::vector<std::string> words;
  for (auto end = line.begin(); end != line.end();) {
    const auto begin = std::find_if_not(end, line.end(), IsWhiteSpace);
    end = std::find_if(begin, line.end(), IsWhiteSpace);
    if (begin != end) words.push_back(EncodeUtf8(std::u32string_view(begin, end)));
  }
  return words;
}

absl::StatusOr<std::vector<std::string>> ListFolders(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator it(folder, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    std::error_code ignored;
    const std::string name = it->path().filename().string();
    if (!name.starts_with('.') && it->is_directory(ignored)) names.push_back(name);
  }
  if (error) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": expected a folder with a folder per class: ", error.message()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::vector<LabelledImage>> ReadSplit(const std::string& split,
                                                     ImagenetFolder& folder) {
  const std::string root = folder.directory + "/" + split;
  SIGLIP_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListFolders(root));
  std::vector<LabelledImage> images;
  std::vector<std::string> unknown, missing;
  for (const std::string& name : names) {
    const auto known = std::lower_bound(
        folder.classes.begin(), folder.classes.end(), name,
        [](const ImagenetClass& c, const std::string& label) { return c.label < label; });
    if (known == folder.classes.end() || known->label != name) unknown.push_back(name);
  }
  for (std::size_t c = 0; c < folder.classes.size(); ++c) {
    const std::string& label = folder.classes[c].label;
    std::vector<std::string> files;
    if (std::binary_search(names.begin(), names.end(), label)) {
      SIGLIP_ASSIGN_OR_RETURN(files, ListFiles(root + "/" + label));
    }
    if (files.empty()) missing.push_back(label);
    for (std::string& file : files) images.push_back({std::move(file), static_cast<int>(c)});
  }
  if (!missing.empty()) {
    folder.remarks.push_back(absl::StrCat(split, ": ", missing.size(), " of ",
                                          folder.classes.size(),
                                          " classes have no images: ", NameSome(missing)));
  }
  if (!unknown.empty()) {
    folder.remarks.push_back(absl::StrCat(split, ": ", unknown.size(), " folders are not in ",
                                          kMappingName, " and were left out: ", NameSome(unknown)));
  }
  if (images.empty()) {
    return absl::NotFoundError(absl::StrCat(root, ": expected <label>/<image> for labels of ",
                                            kMappingName, ", found no image"));
  }
  return images;
}

}  // namespace

absl::StatusOr<std::vector<ImagenetClass>> ParseSynsetMapping(std::string_view content,
                                                              const std::string& path) {
  if (content.starts_with(kByteOrderMark)) content.remove_prefix(kByteOrderMark.size());
  std::map<std::string, std::string> texts;
  int line_number = 0;
  // Lines as Python's text files have them.
  const std::string lines = absl::StrReplaceAll(absl::string_view(content.data(), content.size()),
                                                {{"\r\n", "\n"}, {"\r", "\n"}});
  for (const absl::string_view line : absl::StrSplit(lines, '\n')) {
    ++line_number;
    const absl::StatusOr<std::u32string> decoded = DecodeUtf8({line.data(), line.size()});
    if (!decoded.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", line_number, ": ", decoded.status().message()));
    }
    const std::vector<std::string> words = SplitWords(*decoded);
    if (words.empty()) continue;
    if (words.size() == 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ":", line_number, ": expected a label and a text, got only \"", words[0], "\""));
    }
    if (!texts.emplace(words[0], absl::StrJoin(words.begin() + 1, words.end(), " ")).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", line_number, ": label ", words[0], " appears a second time"));
    }
  }
  if (texts.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": expected lines `label text`, got none"));
  }
  std::vector<ImagenetClass> classes;
  for (const auto& [label, text] : texts) classes.push_back({label, text});
  return classes;
}

absl::StatusOr<std::vector<ImagenetClass>> ReadSynsetMapping(const std::string& path) {
  SIGLIP_ASSIGN_OR_RETURN(const std::string content, ReadFile(path, kMaxMappingBytes));
  return ParseSynsetMapping(content, path);
}

absl::StatusOr<std::vector<std::string>> ListFiles(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  fs::directory_iterator it(folder, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    std::error_code ignored;
    // A link that leads nowhere is listed, so that reading it says so.
    if (it->path().filename().string().starts_with('.') || it->is_directory(ignored)) continue;
    files.push_back(it->path().string());
  }
  if (error) return absl::PermissionDeniedError(absl::StrCat(folder, ": ", error.message()));
  std::sort(files.begin(), files.end());
  return files;
}

absl::StatusOr<ImagenetFolder> OpenImagenetFolder(const std::string& directory) {
  ImagenetFolder folder;
  folder.directory = directory;
  SIGLIP_ASSIGN_OR_RETURN(folder.classes, ReadSynsetMapping(directory + "/" + kMappingName));
  SIGLIP_ASSIGN_OR_RETURN(folder.train, ReadSplit("train", folder));
  SIGLIP_ASSIGN_OR_RETURN(folder.valid, ReadSplit("valid", folder));
  return folder;
}

}  // namespace siglip
