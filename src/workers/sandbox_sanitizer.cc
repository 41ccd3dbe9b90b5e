// Of builds with sanitizers, whose run-time maps its shadow anywhere, reads /proc and has signal
// handlers and threads of its own: limits and closed descriptors, no filter.

#include "workers/sandbox_limits.h"

namespace siglip {

absl::Status EnterSandbox(const SandboxOptions& options) { return LimitProcess(options); }

const char* SandboxName() { return "NO FILTER: built with sanitizers"; }

}  // namespace siglip
