#pragma once

// What of the log is written, and where. An operator or a client may change it while the program
// runs.

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace siglip {

struct LogSettings {
  bool info = true;
  bool warning = true;
  bool error = true;
  std::uint32_t verbose_level = 0;  // > 0: debug lines too
  bool iso8601 = false;             // whole seconds, as Triton's log_format ISO8601
  std::string file = {};            // empty = stderr

  bool operator==(const LogSettings&) const = default;
};

// False if the file cannot be opened, or another copy of the library in this process made the log;
// then nothing changes. Thread-safe.
bool ChangeLog(const LogSettings& settings);
LogSettings CurrentLog();

// Changes what is set now into change(that), as one step: of two that change one setting each, both
// are kept. What is then set, or the error of `change`, which must not change the log itself.
// Thread-safe.
absl::StatusOr<LogSettings> UpdateLog(
    const std::function<absl::StatusOr<LogSettings>(LogSettings)>& change);

}  // namespace siglip
