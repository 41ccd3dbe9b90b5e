#pragma once

// OpenAI's embeddings door: what is below /v1, and GET /openapi.json, which describes it. Refusals
// below /v1 have OpenAI's form, whoever makes them. Work is done by the models whose step is
// embed_text or embed_image.

#include <memory>
#include <span>

#include "server/door_state.h"
#include "server/http.h"
#include "server/image_fetcher.h"
#include "serving/service.h"

namespace siglip {

// The id that takes texts and images; the other ids are the models' own names.
inline constexpr char kJointModelId[] = "siglip";

// Every route of this door.
std::span<const RouteRow> OpenAiRoutes();

class OpenAiHandler final : public HttpHandler {
 public:
  // All outlive the handler. `others` gets the requests for other paths. `fetcher` gets the URLs;
  // null: they are refused.
  OpenAiHandler(Service& service, DoorState& state, std::size_t max_input_bytes,
                ImageFetcher* fetcher, HttpHandler& others);
  void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override;
  HttpResponse Refusal(std::string_view target, int status, std::string_view text) const override;
  std::size_t BodyLimit(std::string_view target) const override;

 private:
  HttpResponse Answer(std::string_view path) const;
  absl::Status Embed(HttpRequest& request, const std::shared_ptr<HttpExchange>& exchange);

  Service& service_;
  DoorState& state_;
  const std::size_t max_input_bytes_;
  ImageFetcher* const fetcher_;
  HttpHandler& others_;
};

}  // namespace siglip
