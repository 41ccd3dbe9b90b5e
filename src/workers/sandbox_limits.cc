#include "workers/sandbox_limits.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace siglip {

absl::Status SetLimit(int resource, const char* name, std::uint64_t value) {
  const rlimit limit{.rlim_cur = value, .rlim_max = value};
  if (setrlimit(static_cast<__rlimit_resource>(resource), &limit) == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(name, ": ", std::strerror(errno)));
}

absl::Status LimitProcess(const SandboxOptions& options) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return absl::InternalError(absl::StrCat("no_new_privs: ", std::strerror(errno)));
  }
  SIGLIP_RETURN_IF_ERROR(SetLimit(RLIMIT_CORE, "core", 0));
  SIGLIP_RETURN_IF_ERROR(SetLimit(RLIMIT_FSIZE, "fsize", 0));
  SIGLIP_RETURN_IF_ERROR(
      SetLimit(RLIMIT_CPU, "cpu", static_cast<std::uint64_t>(options.cpu_seconds)));
  const auto first = static_cast<unsigned>(options.descriptor);
  if ((first > 0 && close_range(0, first - 1, 0) != 0) ||
      close_range(first + 1, UINT_MAX, 0) != 0) {
    return absl::InternalError(absl::StrCat("close_range: ", std::strerror(errno)));
  }
  // What is open stays open; nothing can be opened.
  return SetLimit(RLIMIT_NOFILE, "nofile", 0);
}

}  // namespace siglip
