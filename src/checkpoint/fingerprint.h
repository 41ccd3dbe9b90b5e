#pragma once

// What tells one checkpoint from another.

#include <string>

#include "absl/status/statusor.h"

namespace siglip {

// Of a snapshot folder: the name, size and every byte of each file that loading it reads, and of
// nothing else that lies there. Weights go through ContentHash, which is several times as fast as
// SHA-256. A checkpoint that is made to be taken for another one may be.
absl::StatusOr<std::string> CheckpointFingerprint(const std::string& folder);

}  // namespace siglip
