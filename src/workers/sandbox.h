#pragma once

// What a decode worker gives up before it sees its first picture. What it may do afterwards: use
// the memory it has and get more up to a limit, read and write one descriptor, ask the clock, end.

#include <cstdint>

#include "absl/status/status.h"

namespace siglip {

struct SandboxOptions {
  int descriptor = -1;            // the only one that stays open
  std::int64_t memory_bytes = 0;  // address space beyond what is mapped now
  std::int64_t cpu_seconds = 0;   // of this process's life
};

// Confines the calling process for good: no new privileges, resource limits, every other descriptor
// closed, and a seccomp filter under which any system call that is not listed kills the process.
// REQUIRES: one thread. Internal, with what failed, where the system refuses a part.
absl::Status EnterSandbox(const SandboxOptions& options);

// "seccomp" or what is missing, for logs. A build with sanitizers has neither the filter nor the
// limit of memory: both would end the sanitizer itself.
const char* SandboxName();

}  // namespace siglip
