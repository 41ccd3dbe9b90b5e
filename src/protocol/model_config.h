#pragma once

// config.pbtxt <-> siglip::ModelConfig. The struct carries the parsed message along (`wire`), so
// that what we do not act on is still reported to clients as written.

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "serving/model_config.h"

#include "model_config.pb.h"

namespace siglip {

// `path` names the file in errors: InvalidArgument "path:line:column: what". Unknown fields and
// enum values are refused, and so is what this server cannot honour (sequence batching, labels,
// other shapes outside than inside).
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view text, std::string_view path);

// Of the JSON of a load request: its fields take up to some twenty times their bytes as long as
// the model is loaded. What this server prints of its own models has 1.4 kB.
inline constexpr std::size_t kMaxLoadConfigBytes = std::size_t{64} << 10;

// The same from the JSON of a load request, in protobuf's rules; `name` is the model's, which the
// text must have or leave out.
absl::StatusOr<ModelConfig> ParseModelConfigJson(std::string_view json, std::string_view name);

// The message as clients see it: `wire`, overlaid with the struct's fields, normalised as Triton's
// core does (version policy, preferred batch sizes, pinned memory).
inference::ModelConfig ModelConfigToProto(const ModelConfig& config);

std::string ModelConfigJson(const ModelConfig& config);

}  // namespace siglip
