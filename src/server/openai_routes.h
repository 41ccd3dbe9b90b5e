#pragma once

// OpenAI's embeddings door: POST /v1/embeddings, GET /v1/models, and GET /openapi.json, which
// describes them. Work is done by the models whose step is embed_text or embed_image.

#include <memory>

#include "server/door_state.h"
#include "server/http.h"
#include "serving/service.h"

namespace siglip {

// The id that takes texts and images; the other ids are the models' own names.
inline constexpr char kJointModelId[] = "siglip";

class OpenAiHandler final : public HttpHandler {
 public:
  // All outlive the handler. `others` gets the requests for other paths.
  OpenAiHandler(Service& service, DoorState& state, std::size_t max_input_bytes,
                HttpHandler& others);
  void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override;

 private:
  HttpResponse Answer(std::string_view path, const HttpRequest& request) const;
  absl::Status Embed(HttpRequest& request, const std::shared_ptr<HttpExchange>& exchange);

  Service& service_;
  DoorState& state_;
  const std::size_t max_input_bytes_;
  HttpHandler& others_;
};

}  // namespace siglip
