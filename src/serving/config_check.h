#pragma once

// Load-time checks of a configuration, Triton's and this server's. Every error names the
// configuration's source, the model and the field, what was expected and what was found.

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "serving/deployment.h"
#include "serving/model_config.h"

namespace siglip {

// 1 to 128 of A-Z a-z 0-9 . _ -, and no dot first: what neither a path, a line of a log or of the
// metrics, nor a message in UTF-8 can trip over.
bool IsModelName(std::string_view name);
// The rule as errors tell it.
inline constexpr char kModelNameRule[] =
    "1 to 128 letters of ASCII, digits, '.', '_' and '-', and no dot first";

// InvalidArgument "<source>:<line>: model '<name>': <field>: <text>". The line is that of the field
// (of several of them, of the one that is named `item`), else that of what it is part of, and is
// left out where the source has neither.
absl::Status ConfigError(const ModelConfig& config, std::string_view field, std::string_view text,
                         std::string_view item = {});

// Before the model is made: what needs no checkpoint.
absl::Status CheckConfig(const ModelConfig& config);
// Of a model that is no ensemble: what Triton finds when it hands the configuration to a backend.
absl::Status CheckBackend(const ModelConfig& config);
// After the deployment filled in the dims: fixed, within bounds, and within what the step can do.
absl::Status CheckCompleted(const ModelConfig& config, const Deployment& deployment);
// What Triton's core fills in before it prints a configuration: preferred sizes, instance groups.
void NormalizeConfig(const Deployment& deployment, ModelConfig& config);
// Threads that run the model's step side by side. REQUIRES: normalised.
int InstanceCount(const ModelConfig& config);

// -1 fits all.
bool DimsFit(std::span<const std::int64_t> a, std::span<const std::int64_t> b);

}  // namespace siglip
