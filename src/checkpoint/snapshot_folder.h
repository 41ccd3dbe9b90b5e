#pragma once

// What people give in the place of a snapshot folder, and what to do then.

#include <string>

#include "absl/status/status.h"

namespace siglip {

// OK for a folder, unless it is a model's in the cache of the Hugging Face hub, which keeps the
// snapshots one level further down. NotFound says what it is and what to give instead: that
// snapshot, or for the name of a model on the hub how it is downloaded.
absl::Status CheckSnapshotFolder(const std::string& directory);

}  // namespace siglip
