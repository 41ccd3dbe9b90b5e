#include "serving/request.h"

#include <utility>

namespace siglip {

InferRequest::~InferRequest() {
  if (!done) return;
  InferResponse response;
  response.status = absl::InternalError("request was dropped without an answer");
  Answer(*this, std::move(response));
}

void Answer(InferRequest& request, InferResponse response) {
  if (!request.done) return;
  std::function<void(InferResponse)> done = std::move(request.done);
  request.done = nullptr;
  response.id = request.id;
  if (response.model_name.empty()) response.model_name = request.model_name;
  if (response.model_version.empty()) response.model_version = request.model_version;
  done(std::move(response));
}

void Refuse(std::unique_ptr<InferRequest> request, absl::Status status) {
  InferResponse response;
  response.status = std::move(status);
  Answer(*request, std::move(response));
}

}  // namespace siglip
