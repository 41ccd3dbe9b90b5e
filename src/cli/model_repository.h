#pragma once

// A model repository's folders -> configurations.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "serving/model_config.h"

namespace siglip::cli {

// Reads <repository>/<model>/config.pbtxt of every model folder, sorted by name, with the versions
// that its numbered subfolders give. Errors name the file; so does a model that has no version
// folder or whose name differs from its folder's. Folders without a config.pbtxt are skipped with a
// warning.
absl::StatusOr<std::vector<ModelConfig>> ReadModelRepository(const std::string& repository);

}  // namespace siglip::cli
