#pragma once

// Whose threads a model's are: fork() copies the model, but none of its threads.

#include <sys/types.h>
#include <unistd.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace siglip {

// Made where the threads are started. Thread-safe.
class OwnerProcess {
 public:
  bool IsThisOne() const { return pid_ == ::getpid(); }
  // FailedPrecondition in a child that was forked since.
  absl::Status Check() const {
    if (IsThisOne()) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("model: opened by process ", pid_, " and used in its child ", ::getpid(),
                     ", where its threads are not: open it after the fork"));
  }

 private:
  const pid_t pid_ = ::getpid();
};

}  // namespace siglip
