#pragma once

// The part of the sandbox that every build has. Private to src/workers.

#include "workers/sandbox.h"

namespace siglip {

// Resource limits but the one of memory, no new privileges, descriptors closed.
absl::Status LimitProcess(const SandboxOptions& options);

// setrlimit of both limits. Internal with the limit's name.
absl::Status SetLimit(int resource, const char* name, std::uint64_t value);

}  // namespace siglip
