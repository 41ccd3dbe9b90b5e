#pragma once

// The work behind the leaf deployments: where tensor names meet the library's functions.

#include <memory>

#include "serving/step.h"
#include "siglip/siglip.h"
#include "workers/decode_workers.h"

namespace siglip {

// INPUT_IMAGE bytes -> PIXEL_VALUES [3,S,S]; of NaFlex PIXEL_VALUES [N,p*p*3] and SPATIAL_SHAPES
// int64 [2], rows and columns of patches. Its cost is the memory that the image's head declares.
std::shared_ptr<Step> MakeImageProcessStep(std::shared_ptr<const Model> model);
// The same by info.pixels alone, whatever Pillow it names.
std::shared_ptr<Step> MakeImageProcessStep(const ModelInfo& info);
// The same in `workers`, which outlive it: items end at their time, and with their client.
std::shared_ptr<Step> MakeImageProcessStep(const ModelInfo& info, DecodeWorkers& workers);
// The same, with the GPUs of a model that resizes on them: the workers only decode what those take.
std::shared_ptr<Step> MakeImageProcessStep(std::shared_ptr<const Model> model,
                                           DecodeWorkers& workers);
// The same tensors -> EMBEDDING [D]. An item whose shape is not one of 1..N patches fails alone.
// Any number of items: the model splits what is more than one pass through a tower.
std::shared_ptr<Step> MakeVisionStep(std::shared_ptr<Model> model);
// INPUT_IDS int64 [T] -> EMBEDDING [D].
std::shared_ptr<Step> MakeTextStep(std::shared_ptr<Model> model);

}  // namespace siglip
