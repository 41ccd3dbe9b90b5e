#pragma once

// A checkpoint without its weights, for whoever only prepares what another model computes.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "siglip/siglip.h"

namespace siglip {

// Reads config.json, of NaFlex the preprocessor's settings, and the tokenizer. Info (its engine is
// "none", it has no logit scale and bias), Tokenize and TokenizeUnpadded work; everything else is
// FailedPrecondition. Of `options` only max_patches is read.
absl::StatusOr<std::unique_ptr<Model>> OpenFrontModel(const std::string& directory,
                                                      const ModelOptions& options);

}  // namespace siglip
