#pragma once

// The clients' doors: embed_image and embed_text turn what clients send into what a model below
// takes, split a request that is larger than that model's batches, and join the answers. Nothing
// here waits.

#include <memory>
#include <string>

#include "serving/deployment.h"
#include "siglip/siglip.h"

namespace siglip {

struct Door {
  std::string embed_model = {};  // where requests go that name no other
  bool batched = true;           // false: requests and answers have no batch dimension
};

// Request parameters: base64_encoded (bool, default false), embed_model (string).
std::shared_ptr<Forwarder> MakeEmbedImageForwarder(std::shared_ptr<const Model> model, Door door);
// Request parameter: embed_model (string).
std::shared_ptr<Forwarder> MakeEmbedTextForwarder(std::shared_ptr<const Model> model, Door door);

}  // namespace siglip
