#include "server/openai_routes.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status_macros.h"
#include "protocol/compression.h"
#include "protocol/openai.h"
#include "protocol/status_map.h"
#include "protocol/text.h"
#include "server/http_answers.h"

namespace siglip {
namespace {

constexpr std::string_view kEmbeddingsPath = "/v1/embeddings";
constexpr std::string_view kModelsPath = "/v1/models";
constexpr std::string_view kDocumentPath = "/openapi.json";

HttpResponse Refusal(const absl::Status& status) {
  HttpResponse response = JsonResponse(OpenAiErrorBody(status));
  response.status = HttpStatusOf(status);
  return response;
}

// The ready models that take one kind of item, as they are now.
struct Doors {
  std::vector<std::shared_ptr<const ModelConfig>> text;
  std::vector<std::shared_ptr<const ModelConfig>> image;
};

Doors FindDoors(const Service& service) {
  Doors doors;
  for (const IndexRow& row : service.RepositoryIndex(true)) {
    const auto config = service.GetModelConfig(row.name, "");
    if (!config.ok()) continue;
    const auto step = (*config)->parameters.find("step");
    if (step == (*config)->parameters.end()) continue;
    if (step->second == "embed_text") doors.text.push_back(*config);
    if (step->second == "embed_image") doors.image.push_back(*config);
  }
  return doors;
}

std::vector<EmbeddingModel> ModelsOf(const Doors& doors) {
  std::vector<EmbeddingModel> models;
  if (!doors.text.empty() && !doors.image.empty()) {
    models.push_back({kJointModelId, EmbeddingInput::kBoth});
  }
  for (const auto& config : doors.text) models.push_back({config->name, EmbeddingInput::kText});
  for (const auto& config : doors.image) models.push_back({config->name, EmbeddingInput::kImage});
  return models;
}

// The model that does the items of one kind: the one named, or for the joint id the first.
const ModelConfig* DoorOf(const std::vector<std::shared_ptr<const ModelConfig>>& doors,
                          const std::string& id) {
  for (const auto& config : doors) {
    if (config->name == id) return config.get();
  }
  return id == kJointModelId && !doors.empty() ? doors[0].get() : nullptr;
}

absl::Status CheckDimensions(const EmbeddingsRequest& request, const ModelConfig& door) {
  const std::int64_t width = door.outputs.at(0).dims.at(0);
  if (request.dimensions.value_or(width) == width) return absl::OkStatus();
  return absl::InvalidArgumentError(Concat("dimensions: expected ", width,
                                           " or none, these embeddings cannot be cut, got ",
                                           *request.dimensions));
}

// "input[2]" or "input[2..9]": a part's items lie side by side but for those of the other kind.
std::string PartName(const std::vector<std::size_t>& indices) {
  if (indices.size() == 1) return Concat("input[", indices[0], "]: ");
  return Concat("input[", indices.front(), "..", indices.back(), "]: ");
}

// What the parts of a request come back to. Each writes rows of its own; the last one answers.
class EmbeddingsJob {
 public:
  EmbeddingsJob(EmbeddingsRequest request, Encoding encoding,
                std::shared_ptr<HttpExchange> exchange)
      : request_(std::move(request)),
        encoding_(encoding),
        exchange_(std::move(exchange)),
        rows_(request_.items.size()) {}

  const EmbeddingsRequest& request() const { return request_; }
  HttpExchange& exchange() { return *exchange_; }

  // REQUIRES: before the first is sent.
  void Expect(std::size_t parts) {
    statuses_.resize(parts);
    pending_ = parts;
  }

  void Finish(std::size_t part, const std::vector<std::size_t>& indices,
              const InferResponse& response) {
    absl::Status& status = statuses_[part];
    status = response.status;
    if (status.ok()) Take(indices, response);
    if (!status.ok() && rows_.size() > 1) {
      status = absl::Status(status.code(), Concat(PartName(indices), status.message()));
    }
    // Acquire-release: the last one sees every row.
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    Answer();
  }

 private:
  void Take(const std::vector<std::size_t>& indices, const InferResponse& response) {
    const OutputTensor& output = response.outputs.at(0);
    const std::size_t row_bytes = output.data.size() / indices.size();
    for (std::size_t i = 0; i < indices.size(); ++i) {
      std::vector<float>& row = rows_[indices[i]];
      row.resize(row_bytes / sizeof(float));
      std::memcpy(row.data(), output.data.data() + i * row_bytes, row.size() * sizeof(float));
    }
  }

  void Answer() {
    const auto bad = std::find_if(statuses_.begin(), statuses_.end(),
                                  [](const absl::Status& status) { return !status.ok(); });
    if (bad != statuses_.end()) {
      return exchange_->Respond([status = *bad] { return Refusal(status); });
    }
    auto rows = std::make_shared<const std::vector<std::vector<float>>>(std::move(rows_));
    auto request = std::make_shared<const EmbeddingsRequest>(std::move(request_));
    exchange_->Respond([rows, request, encoding = encoding_] {
      HttpResponse response = JsonResponse(RenderEmbeddings(*request, *rows));
      CompressResponse(encoding, response);
      return response;
    });
  }

  EmbeddingsRequest request_;
  const Encoding encoding_;
  const std::shared_ptr<HttpExchange> exchange_;
  std::vector<std::vector<float>> rows_;
  std::vector<absl::Status> statuses_;
  std::atomic<std::size_t> pending_{0};
};

// Items that go to a model in one request.
struct Part {
  const ModelConfig* door = nullptr;
  bool is_image = false;
  std::vector<std::size_t> indices;
};

// Items of one kind, in pieces that the model takes.
absl::Status AddParts(const EmbeddingsRequest& request, bool is_image, const ModelConfig* door,
                      std::vector<Part>& parts) {
  std::size_t room = 0;
  for (std::size_t i = 0; i < request.items.size(); ++i) {
    if (request.items[i].is_image != is_image) continue;
    if (door == nullptr) return absl::InternalError("a model took items that it has no door for");
    if (room == 0) {
      SIGLIP_RETURN_IF_ERROR(CheckDimensions(request, *door));
      parts.push_back({.door = door, .is_image = is_image, .indices = {}});
      room = static_cast<std::size_t>(std::max(1, door->max_batch_size));
    }
    parts.back().indices.push_back(i);
    --room;
  }
  return absl::OkStatus();
}

std::unique_ptr<InferRequest> PartRequest(const EmbeddingsRequest& request, const Part& part) {
  auto infer = std::make_unique<InferRequest>();
  infer->model_name = part.door->name;
  if (part.is_image) infer->parameters["base64_encoded"] = true;
  InputTensor input;
  input.name = part.door->inputs.at(0).name;
  input.datatype = DataType::kBytes;
  if (part.door->max_batch_size > 0) {
    input.shape.push_back(static_cast<std::int64_t>(part.indices.size()));
  }
  input.shape.push_back(1);
  for (const std::size_t i : part.indices) input.elements.push_back(request.items[i].bytes);
  input.storage = request.storage;
  infer->inputs.push_back(std::move(input));
  return infer;
}

}  // namespace

OpenAiHandler::OpenAiHandler(Service& service, DoorState& state, std::size_t max_input_bytes,
                             HttpHandler& others)
    : service_(service), state_(state), max_input_bytes_(max_input_bytes), others_(others) {}

void OpenAiHandler::Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
  const std::string path = request.target.substr(0, request.target.find('?'));
  if (path != kEmbeddingsPath && path != kModelsPath && path != kDocumentPath) {
    return others_.Handle(std::move(request), std::move(exchange));
  }
  try {
    absl::Status status;
    const Api api = path == kEmbeddingsPath ? Api::kInference : Api::kMetadata;
    std::optional<HttpResponse> now = Restricted(state_.http_restricted, api, request);
    if (!now && path == kEmbeddingsPath && request.method == "POST") {
      status = Embed(request, exchange);
      if (status.ok()) return;
      now = Refusal(status);
    }
    if (!now) now = Answer(path, request);
    exchange->Respond([response = *std::move(now)]() mutable { return std::move(response); });
  } catch (const std::bad_alloc&) {
    exchange->Respond([] { return ErrorResponse(503, "no memory for the request"); });
  }
}

HttpResponse OpenAiHandler::Answer(std::string_view path, const HttpRequest& request) const {
  const char* method = path == kEmbeddingsPath ? "POST" : "GET";
  if (request.method != method) {
    HttpResponse refusal = ErrorResponse(405, "Method Not Allowed");
    refusal.headers.emplace_back("Allow", method);
    return refusal;
  }
  const std::vector<EmbeddingModel> models = ModelsOf(FindDoors(service_));
  if (path == kModelsPath) return JsonResponse(RenderModelList(models));
  return JsonResponse(OpenApiDocument(models, service_.Metadata().version));
}

absl::Status OpenAiHandler::Embed(HttpRequest& request,
                                  const std::shared_ptr<HttpExchange>& exchange) {
  SIGLIP_ASSIGN_OR_RETURN(std::shared_ptr<PaddedBody> body, DecodedBody(request, max_input_bytes_));
  const Doors doors = FindDoors(service_);
  SIGLIP_ASSIGN_OR_RETURN(EmbeddingsRequest parsed,
                          ParseEmbeddings(std::move(body), ModelsOf(doors)));
  std::vector<Part> parts;
  SIGLIP_RETURN_IF_ERROR(AddParts(parsed, false, DoorOf(doors.text, parsed.model), parts));
  SIGLIP_RETURN_IF_ERROR(AddParts(parsed, true, DoorOf(doors.image, parsed.model), parts));
  auto job = std::make_shared<EmbeddingsJob>(std::move(parsed),
                                             ChooseEncoding(request.accept_encoding), exchange);
  job->Expect(parts.size());
  std::vector<std::unique_ptr<InferRequest>> requests;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    std::unique_ptr<InferRequest> infer = PartRequest(job->request(), parts[i]);
    infer->times.arrival_ns = SteadyNowNs();
    if (!state_.http_forwarding.empty()) {
      for (const auto& [name, value] : request.headers) {
        state_.http_forwarding.Forward(name, value, infer->parameters);
      }
    }
    infer->is_cancelled = [job] { return job->exchange().cancelled(); };
    infer->done = [job, i, indices = parts[i].indices](const InferResponse& response) {
      job->Finish(i, indices, response);
    };
    requests.push_back(std::move(infer));
  }
  for (auto& infer : requests) service_.Infer(std::move(infer));
  return absl::OkStatus();
}

}  // namespace siglip
