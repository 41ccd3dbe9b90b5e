#include "cli/image_files.h"

#include "base/status_macros.h"
#include "bulk/listing.h"

namespace siglip::cli {

absl::StatusOr<std::vector<std::string>> ExpandImagePaths(const std::vector<std::string>& paths) {
  bulk::NameList names;
  SIGLIP_RETURN_IF_ERROR(bulk::ListInputs(paths, names));
  std::vector<std::string> files;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (bulk::KindOf(names[i]) == bulk::InputKind::kImage) files.emplace_back(names[i]);
  }
  return files;
}

}  // namespace siglip::cli
