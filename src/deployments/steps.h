#pragma once

// The work behind the leaf deployments: where tensor names meet the library's functions.

#include <memory>

#include "serving/step.h"
#include "siglip/siglip.h"

namespace siglip {

// INPUT_IMAGE bytes -> PIXEL_VALUES [3,S,S]. Its cost is the memory that the image's head declares.
std::shared_ptr<Step> MakeImageProcessStep(std::shared_ptr<const Model> model);
// PIXEL_VALUES [3,S,S] -> EMBEDDING [D]. `max_batch_size`: what the model was opened for.
std::shared_ptr<Step> MakeVisionStep(std::shared_ptr<Model> model, int max_batch_size);
// INPUT_IDS int64 [T] -> EMBEDDING [D].
std::shared_ptr<Step> MakeTextStep(std::shared_ptr<Model> model, int max_batch_size);

}  // namespace siglip
