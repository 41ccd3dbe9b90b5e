#include "serving/request.h"

#include <new>
#include <utility>

namespace siglip {

InferRequest::~InferRequest() {
  if (!done) return;
  try {
    InferResponse response;
    response.status = absl::InternalError("request was dropped without an answer");
    Answer(*this, std::move(response));
  } catch (const std::bad_alloc&) {  // the door answers when `done` goes
  }
}

namespace {

// Of a request's parameters and id in an ensemble: its own and those of the steps under way.
constexpr std::size_t kParameterCopies = 4;
// A node of the map: links, name, value, and what malloc adds.
constexpr std::size_t kParameterBytes = 128;

std::size_t BytesOf(const InputTensor& input) {
  std::size_t bytes = input.data.size();
  for (const std::string_view element : input.elements) bytes += element.size();
  return bytes;
}

}  // namespace

std::size_t InputBytes(const InferRequest& request) {
  std::size_t bytes = 0;
  for (const InputTensor& input : request.inputs) bytes += BytesOf(input);
  return bytes;
}

std::size_t HeldBytes(const InferRequest& request) {
  std::size_t bytes = request.body_bytes;
  for (const InputTensor& input : request.inputs) {
    bytes += input.elements.size() * sizeof(std::string_view);
    if (request.body_bytes == 0 || input.storage != nullptr) bytes += BytesOf(input);
  }
  for (const auto& [name, value] : request.parameters) {
    const auto* text = std::get_if<std::string>(&value);
    const std::size_t text_bytes = text == nullptr ? 0 : text->size();
    bytes += kParameterCopies * (kParameterBytes + name.size() + text_bytes);
  }
  return bytes + kParameterCopies * request.id.size();
}

void Inherit(const InferRequest& outer, InferRequest& inner) {
  inner.priority = outer.priority;
  inner.timeout_us = outer.timeout_us;
  inner.accepted_ns = outer.accepted_ns;
  inner.client_end_ns = outer.client_end_ns;
  inner.is_cancelled = outer.is_cancelled;
  if (outer.trace == nullptr) return;
  inner.trace = outer.trace;
  inner.trace_id = outer.trace->NextId();
  inner.trace_parent_id = outer.trace_id;
}

void Answer(InferRequest& request, InferResponse response) {
  if (!request.done) return;
  if (request.trace != nullptr) request.trace->Add(request);
  std::function<void(InferResponse)> done = std::move(request.done);
  request.done = nullptr;
  response.id = request.id;
  response.from_model = request.at_model;
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
