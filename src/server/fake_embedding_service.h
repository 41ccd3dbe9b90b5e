#pragma once

// A Service for the tests of the OpenAI door.

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "server/fake_service.h"
#include "serving/item_errors.h"

namespace siglip {

// embed_text and embed_image of two rows a batch: an item's embedding is [its length, 0 or 1 for an
// image]. An item that begins with "bad" (or, as base64, "YmFk") fails itself, one "down" its
// request.
class EmbeddingService : public FakeService {
 public:
  std::vector<IndexRow> RepositoryIndex(bool) const override {
    return {{"embed_image", "1", "READY", ""},
            {"embed_text", "1", "READY", ""},
            {"siglip_text", "1", "READY", ""}};
  }
  absl::StatusOr<std::shared_ptr<const ModelConfig>> GetModelConfig(
      const std::string& name, const std::string&) const override {
    auto config = std::make_shared<ModelConfig>();
    config->name = name;
    config->max_batch_size = 2;
    config->inputs = {{.name = "IN", .datatype = DataType::kBytes, .dims = {1}}};
    config->outputs = {{.name = "EMBEDDING", .datatype = DataType::kFp32, .dims = {2}}};
    config->parameters["step"] = name == "siglip_text" ? "text" : name;
    return std::shared_ptr<const ModelConfig>(std::move(config));
  }
  std::atomic<bool> came_with_place{false};

  void Infer(std::unique_ptr<InferRequest> request) override {
    const InputTensor& input = request->inputs.at(0);
    came_with_place = request->place != nullptr;
    request->place.reset();
    {
      MutexLock lock(mu_);
      batches_.push_back(request->model_name + " " + std::to_string(input.elements.size()));
    }
    auto values = std::make_shared<std::vector<float>>();
    InferResponse response;
    std::vector<ItemError> errors;
    bool down = false;
    for (std::size_t i = 0; i < input.elements.size(); ++i) {
      const std::string_view element = input.elements[i];
      down = down || element == "down";
      if (element.starts_with("bad") || element == "YmFk") {
        errors.push_back({.item = i, .status = absl::InvalidArgumentError("no good")});
      }
      values->push_back(static_cast<float>(element.size()));
      values->push_back(request->parameters.contains("base64_encoded") ? 1 : 0);
    }
    response.status = JoinItemErrors(input.elements.size(), errors);
    if (down) response.status = absl::InternalError("the engine is down");
    OutputTensor output;
    output.data = std::as_bytes(std::span(*values));
    output.storage = values;
    response.outputs.push_back(std::move(output));
    if (request->count_tokens) response.input_tokens = 3;
    siglip::Answer(*request, std::move(response));
  }
  std::vector<std::string> batches() {
    MutexLock lock(mu_);
    return batches_;
  }

 private:
  Mutex mu_;
  std::vector<std::string> batches_ SIGLIP_GUARDED_BY(mu_);
};

}  // namespace siglip
