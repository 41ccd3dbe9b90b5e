#include "cli/job_engine.h"

#include <cstddef>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace siglip::cli {

std::string JobEngine(const std::string& engine) {
  const std::size_t comma = engine.rfind(", ");
  if (comma != std::string::npos && engine.find(" thread", comma) != std::string::npos) {
    return engine.substr(0, comma);
  }
  std::set<std::string> gpus;
  std::string rest = engine;
  while (true) {
    const std::size_t number = rest.find(" (cuda:");
    const std::size_t capability = rest.find("sm_", number);
    const std::size_t end = rest.find(')', capability);
    if (end == std::string::npos) break;
    const std::size_t name = rest.starts_with(" + ") ? 3 : 0;
    gpus.insert(absl::StrCat(rest.substr(name, number - name), " (",
                             rest.substr(capability, end + 1 - capability)));
    rest = rest.substr(end + 1);
  }
  return absl::StrCat(absl::StrJoin(gpus, " + "), rest);
}

}  // namespace siglip::cli
