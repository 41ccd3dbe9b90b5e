#pragma once

// A validation set in ImageNet's layout:
//   train/<synset>/<file>   valid/<synset>/<file>   LOC_synset_mapping.txt

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace siglip {

struct ImagenetClass {
  std::string label;  // "n01440764"
  std::string text;   // "tench, Tinca tinca"
};

struct LabelledImage {
  std::string path;
  int class_index = 0;  // into ImagenetFolder::classes
};

struct ImagenetFolder {
  std::string directory;
  std::vector<ImagenetClass> classes;  // sorted by label
  std::vector<LabelledImage> train;    // sorted by class, then by file name
  std::vector<LabelledImage> valid;
  // What a user should know: classes without a folder, folders that are no class.
  std::vector<std::string> remarks;
};

// The lines of LOC_synset_mapping.txt, read as Python would: lines end with \n, \r or both and are
// split as str.split() does, at Unicode's white space too; the first word is the label, the rest,
// joined by single spaces, the text. Blank lines and a byte order mark are skipped. Sorted by
// label. InvalidArgument names `path` and the line: no text, a label twice, not UTF-8, no classes
// at all.
absl::StatusOr<std::vector<ImagenetClass>> ParseSynsetMapping(std::string_view content,
                                                              const std::string& path);

absl::StatusOr<std::vector<ImagenetClass>> ReadSynsetMapping(const std::string& path);

// Files of a folder, sorted by name; symlinks to files are followed, hidden files are left out.
absl::StatusOr<std::vector<std::string>> ListFiles(const std::string& folder);

// Reads mapping and folders, no images. NotFound: the mapping or a whole split is missing.
absl::StatusOr<ImagenetFolder> OpenImagenetFolder(const std::string& directory);

}  // namespace siglip
