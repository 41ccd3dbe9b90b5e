#include "cli/version.h"

#include "absl/strings/str_cat.h"
#include "image/preprocess.h"

namespace siglip::cli {

std::string VersionText() {
  return absl::StrCat("siglip ", SIGLIP_VERSION, " (commit ", SIGLIP_COMMIT,
                      ")\ncompiler: ", SIGLIP_COMPILER, "\ncodecs: ", CodecVersions());
}

}  // namespace siglip::cli
