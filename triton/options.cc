#include "triton/options.h"

#include <string>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
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
  if (name == "model") options.model_override = value;
  if (name == "precision") model.precision = value;
  if (name == "device") model.device = value;
  if (name == "isa") model.isa = value;
  if (name == "cache-dir") model.cache_dir = value;
  // The bounds are those of the command line.
  if (name == "threads") return ReadInt(name, value, 0, 1024, model.num_threads);
  if (name == "engine-batch-size") return ReadInt(name, value, 1, 1024, model.max_batch_size);
  if (name == "pillow") return ReadInt(name, value, 12, 13, model.pillow);
  if (name == "max-patches") return ReadInt(name, value, 0, 65536, model.max_patches);
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
