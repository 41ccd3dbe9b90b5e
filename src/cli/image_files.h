#pragma once

// From what the command line names to a list of image files.

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace siglip::cli {

// As bulk/listing.h lists them, without the archives. NotFound names what is not there.
absl::StatusOr<std::vector<std::string>> ExpandImagePaths(const std::vector<std::string>& paths);

}  // namespace siglip::cli
