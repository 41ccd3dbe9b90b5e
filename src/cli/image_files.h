#pragma once

// From what the command line names to a list of image files.

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace siglip::cli {

// Files are taken as they are; folders are walked (symlinks to files are followed, to folders not)
// and give their files with an image's extension, sorted by path. NotFound names what is not there.
absl::StatusOr<std::vector<std::string>> ExpandImagePaths(const std::vector<std::string>& paths);

}  // namespace siglip::cli
