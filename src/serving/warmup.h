#pragma once

// Runs a step before its model is ready, so that the first client does not pay for caches and
// pages.

#include "absl/status/status.h"
#include "serving/model_config.h"
#include "serving/step.h"

namespace siglip {

// All model_warmup entries: `count` times a batch of `batch_size` rows. Rows have the model's own
// dims: those of the entry may come from another checkpoint. REQUIRES: CheckCompleted.
absl::Status WarmUp(const ModelConfig& config, Step& step);

}  // namespace siglip
