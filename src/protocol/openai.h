#pragma once

// The embeddings part of OpenAI's protocol: a list of texts and images in, a list of vectors out.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "protocol/padded_body.h"

namespace siglip {

// What a model of this door takes.
enum class EmbeddingInput { kText, kImage, kBoth };

struct EmbeddingModel {
  std::string id;
  EmbeddingInput input = EmbeddingInput::kText;
};

// UTF-8 text, or an image file as base64 or behind a URL. Views of the request.
struct EmbeddingItem {
  bool is_image = false;
  bool is_url = false;
  std::string_view bytes;
};

struct EmbeddingsRequest {
  std::string model;
  std::vector<EmbeddingItem> items;
  bool base64 = false;     // encoding_format: little-endian float32 as base64, else numbers
  bool normalized = true;  // vectors of length 1, as OpenAI's are
  std::optional<std::int64_t> dimensions;
  std::shared_ptr<const void> storage;  // keeps `items` alive
  std::size_t storage_bytes = 0;        // of the body, read or not
};

// NotFound: no such model, with the ids that there are.
absl::StatusOr<EmbeddingModel> FindEmbeddingModel(std::span<const EmbeddingModel> models,
                                                  std::string_view id);

// An item is a text, {"type":"text","text":T}, {"text":T}, an image as a data: URI,
// {"type":"image_url","image_url":U or {"url":U}}, {"image":U}; where the model takes images alone,
// a string is one too, as base64 or data: URI. Whatever has "://" is a URL, whose scheme nobody has
// looked at. Fields that are null, but for model and input, are as if they were not there. `models`
// tells what the model takes. NotFound: no such model; InvalidArgument names the field.
absl::StatusOr<EmbeddingsRequest> ParseEmbeddings(std::shared_ptr<const PaddedBody> body,
                                                  std::span<const EmbeddingModel> models);

// rows[i]: of item i, as they came from the model; normalised here if the request says so.
// input_tokens: what `usage` says, the ids of the texts with EOS and without padding.
std::string RenderEmbeddings(const EmbeddingsRequest& request,
                             const std::vector<std::vector<float>>& rows,
                             std::int64_t input_tokens);
std::string RenderModel(const EmbeddingModel& model);
std::string RenderModelList(std::span<const EmbeddingModel> models);

// A refusal, empty texts are null: {"error":{"message":..,"type":..,"param":..,"code":..}}.
struct OpenAiError {
  int http_status = 400;  // says the type: server_error from 500 on, else invalid_request_error
  std::string_view message = {};
  std::string_view param = {};  // the field of the request that is wrong
  std::string_view code = {};
};
std::string OpenAiErrorBody(const OpenAiError& error);
// With the status' text, and the field that BlameField has put to it.
std::string OpenAiErrorBody(const absl::Status& status);
// The same error with the request's field that it is about. An error that has one keeps it.
absl::Status BlameField(absl::Status status, std::string_view field);

// OpenAPI 3.1 of these routes; the models' ids are those that may be asked for. asks_for_keys: a
// request without an API key is refused.
std::string OpenApiDocument(std::span<const EmbeddingModel> models, std::string_view version,
                            bool asks_for_keys);

}  // namespace siglip
