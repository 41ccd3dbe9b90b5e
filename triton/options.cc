#include "triton/options.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/log.h"
#include "base/pixel_limit.h"
#include "base/status_macros.h"

namespace siglip::triton {
namespace {

template <class Int>
absl::Status ReadInt(const std::string& name, const std::string& text, int least, int most,
                     Int& value) {
  const auto number = ParseInt<int>(text);
  if (!number || *number < least || *number > most) {
    return absl::InvalidArgumentError(absl::StrCat("backend config ", name, ": expected ", least,
                                                   " to ", most, ", got '", text, "'"));
  }
  value = *number;
  return absl::OkStatus();
}

absl::Status Set(const std::string& name, const std::string& value, DeploymentsOptions& options) {
  ModelOptions& model = options.model;
  const std::pair<const char*, std::string*> texts[] = {{"model", &options.model_override},
                                                        {"precision", &model.precision},
                                                        {"device", &model.device},
                                                        {"isa", &model.isa},
                                                        {"cache-dir", &model.cache_dir}};
  for (const auto& [known, place] : texts) {
    if (name != known) continue;
    *place = value;
    return absl::OkStatus();
  }
  // The bounds are those of the command line.
  if (name == "threads") return ReadInt(name, value, 0, 1024, model.num_threads);
  if (name == "engine-batch-size") return ReadInt(name, value, 1, 1024, model.max_batch_size);
  if (name == "pillow") return ReadInt(name, value, 12, 13, model.pillow);
  if (name == "max-pixels") return ReadInt(name, value, 1, kPillowMaxPixels, model.max_pixels);
  if (name == "max-patches") return ReadInt(name, value, 0, 65536, model.max_patches);
  // Triton's core gives every backend some names of its own.
  constexpr std::string_view kOfTheCore[] = {"auto-complete-config", "backend-directory",
                                             "default-max-batch-size", "min-compute-capability"};
  if (std::find(std::begin(kOfTheCore), std::end(kOfTheCore), name) == std::end(kOfTheCore)) {
    SIGLIP_LOG_WARN("backend config: no option is named \"{}\"", LogSafe(name));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DeploymentsOptions> ParseBackendConfig(std::string_view json) {
  const auto parsed = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  DeploymentsOptions options;
  if (!parsed.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("backend config: expected a JSON object, got ", std::string(json)));
  }
  const auto cmdline = parsed.find("cmdline");
  if (cmdline == parsed.end()) return options;
  for (const auto& [name, value] : cmdline->items()) {
    if (!value.is_string()) continue;
    SIGLIP_RETURN_IF_ERROR(Set(name, value.get<std::string>(), options));
  }
  return options;
}

}  // namespace siglip::triton
