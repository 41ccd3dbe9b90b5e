#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/config.h"
#include "siglip/siglip.h"
#include "text/tokenizer.h"

namespace siglip {

// Of a checkpoint, but for what its weights, pixels and engine say. max_patches: of NaFlex, else 0.
ModelInfo InfoOf(const std::string& directory, const SiglipConfig& config, std::int64_t max_patches,
                 const Tokenizer& tokenizer);

}  // namespace siglip
