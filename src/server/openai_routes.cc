#include "server/openai_routes.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <new>
#include <utility>
#include <vector>

#include "base/absl_view.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "protocol/compression.h"
#include "protocol/openai.h"
#include "protocol/status_map.h"
#include "protocol/text.h"
#include "server/http_answers.h"
#include "serving/item_errors.h"
#include "serving/overload.h"
#include "serving/validate.h"

namespace siglip {
namespace {

constexpr std::string_view kEmbeddingsPath = "/v1/embeddings";
constexpr std::string_view kModelsPath = "/v1/models";
constexpr std::string_view kModelPath = "/v1/models/{model}";
constexpr std::string_view kDocumentPath = "/openapi.json";

constexpr RouteRow kOpenAiRoutes[] = {
    {"POST", kEmbeddingsPath, Api::kInference},
    {"GET", kModelsPath, Api::kMetadata},
    {"GET", kModelPath, Api::kMetadata},
    {"GET", kDocumentPath, Api::kMetadata},
};

// Of one request. Each is a connection and up to --http-max-input-size bytes.
constexpr std::size_t kMaxUrls = 32;

// The model that a path of kModelPath names; none: another path.
std::string_view NamedModel(std::string_view path) {
  const std::string_view before = kModelPath.substr(0, kModelPath.find('{'));
  if (!path.starts_with(before)) return {};
  const std::string_view model = path.substr(before.size());
  return model.find('/') == std::string_view::npos ? model : std::string_view();
}

// The route of `path`; null if it is none of this door's.
const RouteRow* FindOpenAiRow(std::string_view path) {
  for (const RouteRow& row : kOpenAiRoutes) {
    if (row.path == kModelPath ? !NamedModel(path).empty() : row.path == path) return &row;
  }
  return nullptr;
}

bool IsOpenAiPath(std::string_view path) { return path == "/v1" || path.starts_with("/v1/"); }

HttpResponse StatusRefusal(const absl::Status& status) {
  HttpResponse response = JsonResponse(OpenAiErrorBody(status));
  response.status = HttpStatusOf(status);
  response.overloaded = IsOverloaded(status);
  return response;
}

// How an item of the request's list is called.
ItemName InputName() { return {.before = "input[", .after = "]"}; }

absl::Status ItemStatus(std::size_t item, const absl::Status& status) {
  return absl::Status(status.code(), Concat("input[", item, "]: ", status.message()));
}

// One item is told as itself, several as so many of all.
absl::Status JoinInputErrors(std::size_t items, const std::vector<ItemError>& errors) {
  if (errors.size() == 1) return ItemStatus(errors[0].item, errors[0].status);
  return JoinItemErrors(items, errors, InputName());
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
    const std::string step = (*config)->parameter("step");
    if (step == "embed_text") doors.text.push_back(*config);
    if (step == "embed_image") doors.image.push_back(*config);
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
std::shared_ptr<const ModelConfig> DoorOf(
    const std::vector<std::shared_ptr<const ModelConfig>>& doors, const std::string& id) {
  for (const auto& config : doors) {
    if (config->name == id) return config;
  }
  return id == kJointModelId && !doors.empty() ? doors[0] : nullptr;
}

// Whether every URL may be fetched.
absl::Status CheckUrls(const EmbeddingsRequest& request, const ImageFetcher* fetcher) {
  std::size_t urls = 0;
  std::vector<ItemError> errors;
  for (std::size_t i = 0; i < request.items.size(); ++i) {
    const EmbeddingItem& item = request.items[i];
    if (!item.is_url) continue;
    if (++urls > kMaxUrls) {
      return BlameField(
          ItemStatus(i, absl::InvalidArgumentError(Concat("expected at most ", kMaxUrls, " URLs"))),
          "input");
    }
    const absl::Status status =
        fetcher == nullptr ? absl::InvalidArgumentError(
                                 "images are not fetched from URLs; send a data: URI or base64")
                           : fetcher->Check(std::string(item.bytes));
    if (!status.ok()) errors.push_back({.item = i, .status = status});
  }
  return BlameField(JoinInputErrors(request.items.size(), errors), "input");
}

absl::Status CheckDimensions(const EmbeddingsRequest& request, const ModelConfig& door) {
  const std::int64_t width = door.outputs.at(0).dims.at(0);
  if (request.dimensions.value_or(width) == width) return absl::OkStatus();
  return BlameField(absl::InvalidArgumentError(Concat(
                        "dimensions: expected ", width,
                        " or none, these embeddings cannot be cut, got ", *request.dimensions)),
                    "dimensions");
}

// Of Service::TakePlace.
using Place = std::shared_ptr<const void>;

// What the parts of a request come back to. Each writes rows of its own; the last one answers.
// What calls back holds the job, and the job nothing that does: one whose images never come goes,
// and its exchange answers.
class EmbeddingsJob : public std::enable_shared_from_this<EmbeddingsJob> {
 public:
  // Sends the parts of a job whose images are there.
  using SendParts = std::function<void(const std::shared_ptr<EmbeddingsJob>&, const Place&)>;

  EmbeddingsJob(EmbeddingsRequest request, Encoding encoding,
                std::shared_ptr<HttpExchange> exchange)
      : request_(std::move(request)),
        encoding_(encoding),
        exchange_(std::move(exchange)),
        rows_(request_.items.size()) {}

  const EmbeddingsRequest& request() const { return request_; }
  HttpExchange& exchange() { return *exchange_; }

  // Calls `send` when `count` images have come, unless one has not: that is the answer. `place` and
  // `body_hold` count the request and its body until then. REQUIRES: before the first is fetched.
  void ExpectImages(std::size_t count, Place place, Budget::Hold body_hold, SendParts send) {
    place_ = std::move(place);
    body_hold_ = std::move(body_hold);
    images_.resize(request_.items.size());
    image_statuses_.resize(request_.items.size());
    pending_images_ = count;
    send_ = std::move(send);
  }

  // The file of an item that had a URL.
  void TakeImage(std::size_t item, absl::StatusOr<FetchedImage> image) {
    image_statuses_[item] = image.status();
    if (image.ok()) images_[item] = *std::move(image);
    // Acquire-release: the last one sees every image.
    if (pending_images_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    // On the fetching thread, which has no answer of its own for a lack of memory.
    try {
      SendImages();
    } catch (const std::bad_alloc&) {
      Refuse(OverloadedError("no memory for the request"));
    }
  }

  // REQUIRES: before the first is sent.
  void Expect(std::size_t parts) {
    failures_.resize(parts);
    pending_ = parts;
  }

  void Finish(std::size_t part, const std::vector<std::size_t>& indices,
              const InferResponse& response) {
    if (response.status.ok()) {
      Take(indices, response);
    } else {
      failures_[part] = FailureOf(indices, response.status);
    }
    input_tokens_.fetch_add(response.input_tokens, std::memory_order_relaxed);
    // Acquire-release: the last one sees every row.
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    Answer();
  }

 private:
  void SendImages() {
    const SendParts send = std::exchange(send_, nullptr);
    Place place = std::exchange(place_, nullptr);
    const absl::Status came = JoinInputErrors(images_.size(), ErrorsAmong(image_statuses_));
    if (!came.ok()) {
      place = nullptr;
      return Refuse(came);
    }
    for (std::size_t i = 0; i < images_.size(); ++i) {
      if (request_.items[i].is_url) request_.items[i].bytes = images_[i].bytes;
    }
    body_hold_ = Budget::Hold();  // the service counts it from here on
    send(shared_from_this(), place);
  }

  // Why a part failed: for some of its items, under the numbers that they have in the request, or
  // as a whole.
  struct Failure {
    std::vector<ItemError> items;
    absl::Status whole;
  };

  Failure FailureOf(const std::vector<std::size_t>& indices, const absl::Status& status) const {
    Failure failure{.items = ItemErrorsOf(status), .whole = absl::OkStatus()};
    const bool items_alone =
        rows_.size() > 1 && !failure.items.empty() && failure.items.back().item < indices.size();
    if (items_alone) {
      for (ItemError& error : failure.items) error.item = indices[error.item];
      return failure;
    }
    failure.items.clear();
    const bool alone = rows_.size() == 1;
    failure.whole = alone ? status : PrefixStatus(status, NameItems(indices, InputName()) + ": ");
    return failure;
  }

  // OK if every part has its rows.
  absl::Status JoinFailures() const {
    std::vector<ItemError> errors;
    for (const Failure& failure : failures_) {
      if (!failure.whole.ok()) return failure.whole;
      errors.insert(errors.end(), failure.items.begin(), failure.items.end());
    }
    std::sort(errors.begin(), errors.end(),
              [](const ItemError& a, const ItemError& b) { return a.item < b.item; });
    return JoinInputErrors(rows_.size(), errors);
  }

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
    if (const absl::Status status = JoinFailures(); !status.ok()) return Refuse(status);
    auto rows = std::make_shared<const std::vector<std::vector<float>>>(std::move(rows_));
    auto request = std::make_shared<const EmbeddingsRequest>(std::move(request_));
    exchange_->Respond([rows, request, encoding = encoding_, tokens = input_tokens_.load()] {
      HttpResponse response = JsonResponse(RenderEmbeddings(*request, *rows, tokens));
      CompressResponse(encoding, response);
      return response;
    });
  }

  void Refuse(const absl::Status& status) {
    // What is wrong with a request that was taken, is wrong with its items.
    const bool is_clients = absl::IsInvalidArgument(status);
    exchange_->Respond([status = is_clients ? BlameField(status, "input") : status] {
      return StatusRefusal(status);
    });
  }

  EmbeddingsRequest request_;
  const Encoding encoding_;
  const std::shared_ptr<HttpExchange> exchange_;
  std::vector<std::vector<float>> rows_;
  std::vector<Failure> failures_;  // by part
  std::atomic<std::size_t> pending_{0};
  std::atomic<std::int64_t> input_tokens_{0};  // ordered by pending_
  std::vector<FetchedImage> images_;           // by item; the items' bytes are views of them
  std::vector<absl::Status> image_statuses_;
  std::atomic<std::size_t> pending_images_{0};
  Place place_;             // while images are awaited
  Budget::Hold body_hold_;  // likewise
  SendParts send_;          // likewise
};

// Items that go to a model in one request.
struct Part {
  std::shared_ptr<const ModelConfig> door;
  bool is_image = false;
  bool is_url = false;  // its images are files, not base64
  std::vector<std::size_t> indices;
};

// Items of one kind, in pieces that the model takes.
absl::Status AddParts(const EmbeddingsRequest& request, bool is_image, bool is_url,
                      const std::shared_ptr<const ModelConfig>& door, std::vector<Part>& parts) {
  std::size_t room = 0;
  for (std::size_t i = 0; i < request.items.size(); ++i) {
    if (request.items[i].is_image != is_image || request.items[i].is_url != is_url) continue;
    if (door == nullptr) return absl::InternalError("a model took items that it has no door for");
    if (room == 0) {
      SIGLIP_RETURN_IF_ERROR(CheckDimensions(request, *door));
      parts.push_back({.door = door, .is_image = is_image, .is_url = is_url, .indices = {}});
      room = static_cast<std::size_t>(std::max(1, door->max_batch_size));
    }
    parts.back().indices.push_back(i);
    --room;
  }
  return absl::OkStatus();
}

std::unique_ptr<InferRequest> PartRequest(const std::shared_ptr<EmbeddingsJob>& job,
                                          const Part& part) {
  const EmbeddingsRequest& request = job->request();
  auto infer = std::make_unique<InferRequest>();
  infer->model_name = part.door->name;
  infer->count_tokens = !part.is_image;
  if (part.is_image && !part.is_url) infer->parameters["base64_encoded"] = true;
  InputTensor input;
  input.name = part.door->inputs.at(0).name;
  input.datatype = DataType::kBytes;
  if (part.door->max_batch_size > 0) {
    input.shape.push_back(static_cast<std::int64_t>(part.indices.size()));
  }
  input.shape.push_back(1);
  for (const std::size_t i : part.indices) input.elements.push_back(request.items[i].bytes);
  input.storage = job;
  infer->inputs.push_back(std::move(input));
  return infer;
}

void Send(Service& service, const std::shared_ptr<EmbeddingsJob>& job,
          const std::vector<Part>& parts, const Parameters& forwarded, const Place& place) {
  job->Expect(parts.size());
  std::vector<std::unique_ptr<InferRequest>> requests;
  // What the body has beside the items counts for the first.
  std::size_t rest = job->request().storage_bytes;
  for (const EmbeddingItem& item : job->request().items) rest -= std::min(rest, item.bytes.size());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    std::unique_ptr<InferRequest> infer = PartRequest(job, parts[i]);
    infer->body_bytes = i == 0 ? rest : 0;
    infer->place = place;
    infer->times.arrival_ns = SteadyNowNs();
    infer->parameters.insert(forwarded.begin(), forwarded.end());
    infer->is_cancelled = [job] { return job->exchange().cancelled(); };
    infer->done = [job, i, indices = parts[i].indices](const InferResponse& response) {
      job->Finish(i, indices, response);
    };
    requests.push_back(std::move(infer));
  }
  for (auto& infer : requests) service.Infer(std::move(infer));
}

}  // namespace

OpenAiHandler::OpenAiHandler(Service& service, DoorState& state, std::size_t max_input_bytes,
                             ImageFetcher* fetcher, HttpHandler& others)
    : service_(service),
      state_(state),
      max_input_bytes_(max_input_bytes),
      fetcher_(fetcher),
      others_(others) {}

std::span<const RouteRow> OpenAiRoutes() { return kOpenAiRoutes; }

HttpResponse OpenAiHandler::Refusal(std::string_view target, int status,
                                    std::string_view text) const {
  if (!IsOpenAiPath(PathOf(target))) return others_.Refusal(target, status, text);
  HttpResponse response = JsonResponse(OpenAiErrorBody(
      {.http_status = status, .message = text, .code = status == 401 ? "invalid_api_key" : ""}));
  response.status = status;
  return response;
}

std::size_t OpenAiHandler::BodyLimit(std::string_view target) const {
  const RouteRow* const row = FindOpenAiRow(PathOf(target));
  if (row == nullptr) return others_.BodyLimit(target);
  return ReadsBody(*row) ? HttpHandler::BodyLimit(target) : kUnreadBodyBytes;
}

void OpenAiHandler::Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
  const std::string path(PathOf(request.target));
  const RouteRow* const row = FindOpenAiRow(path);
  if (row == nullptr && !IsOpenAiPath(path)) {
    return others_.Handle(std::move(request), std::move(exchange));
  }
  const auto answer = [&](HttpResponse response) {
    exchange->Respond([response = std::move(response)]() mutable { return std::move(response); });
  };
  try {
    if (row == nullptr) return answer(Refusal(path, 404, "Not Found"));
    if (request.method != row->method) {
      HttpResponse refusal = Refusal(path, 405, "Method Not Allowed");
      refusal.headers.emplace_back("Allow", std::string(row->method));
      return answer(std::move(refusal));
    }
    if (const auto text = RestrictedText(state_.http_restricted, *row->api, request)) {
      return answer(Refusal(path, 403, *text));
    }
    if (path != kEmbeddingsPath) return answer(Answer(path));
    // Not Triton's 501, which clients of this door take for an error of the server, to be tried
    // again.
    if (const auto encoding = ParseContentEncoding(request.content_encoding.value_or(""));
        !encoding.ok()) {
      HttpResponse refusal = Refusal(path, 415, StdView(encoding.status().message()));
      refusal.headers.emplace_back("Accept-Encoding", "gzip, deflate");
      return answer(std::move(refusal));
    }
    const absl::Status status = Embed(request, exchange);
    if (!status.ok()) answer(StatusRefusal(status));
  } catch (const std::bad_alloc&) {
    HttpResponse refusal = Refusal(path, 503, "no memory for the request");
    refusal.overloaded = true;
    answer(std::move(refusal));
  }
}

HttpResponse OpenAiHandler::Answer(std::string_view path) const {
  const std::vector<EmbeddingModel> models = ModelsOf(FindDoors(service_));
  if (path == kModelsPath) return JsonResponse(RenderModelList(models));
  if (const std::string_view id = NamedModel(path); !id.empty()) {
    const absl::StatusOr<EmbeddingModel> model = FindEmbeddingModel(models, id);
    return model.ok() ? JsonResponse(RenderModel(*model)) : StatusRefusal(model.status());
  }
  return JsonResponse(
      OpenApiDocument(models, service_.Metadata().version, state_.api_keys.asked_for()));
}

absl::Status OpenAiHandler::Embed(HttpRequest& request,
                                  const std::shared_ptr<HttpExchange>& exchange) {
  SIGLIP_ASSIGN_OR_RETURN(std::shared_ptr<PaddedBody> body, DecodedBody(request, max_input_bytes_));
  const Doors doors = FindDoors(service_);
  SIGLIP_ASSIGN_OR_RETURN(EmbeddingsRequest parsed,
                          ParseEmbeddings(std::move(body), ModelsOf(doors)));
  SIGLIP_RETURN_IF_ERROR(CheckUrls(parsed, fetcher_));
  const auto text_door = DoorOf(doors.text, parsed.model);
  const auto image_door = DoorOf(doors.image, parsed.model);
  std::vector<Part> parts;
  SIGLIP_RETURN_IF_ERROR(AddParts(parsed, false, false, text_door, parts));
  SIGLIP_RETURN_IF_ERROR(AddParts(parsed, true, false, image_door, parts));
  SIGLIP_RETURN_IF_ERROR(AddParts(parsed, true, true, image_door, parts));
  Parameters forwarded;
  for (const auto& [name, value] : request.headers) {
    state_.http_forwarding.Forward(name, value, forwarded);
  }
  const std::size_t body_bytes = parsed.storage_bytes;
  // The items, as they are while URLs are fetched.
  const std::vector<EmbeddingItem> items = parsed.items;
  auto job = std::make_shared<EmbeddingsJob>(std::move(parsed),
                                             ChooseEncoding(request.accept_encoding), exchange);
  const auto urls = std::count_if(items.begin(), items.end(),
                                  [](const EmbeddingItem& item) { return item.is_url; });
  if (urls == 0) {
    Send(service_, job, parts, forwarded, nullptr);
    return absl::OkStatus();
  }
  SIGLIP_ASSIGN_OR_RETURN(Place place, service_.TakePlace());
  SIGLIP_ASSIGN_OR_RETURN(Budget::Hold hold, fetcher_->HoldRequest(body_bytes));
  job->ExpectImages(
      static_cast<std::size_t>(urls), std::move(place), std::move(hold),
      [&service = service_, parts = std::move(parts), forwarded = std::move(forwarded)](
          const std::shared_ptr<EmbeddingsJob>& whole, const Place& taken) {
        Send(service, whole, parts, forwarded, taken);
      });
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (!items[i].is_url) continue;
    fetcher_->Fetch(
        std::string(items[i].bytes), [job] { return job->exchange().cancelled(); },
        [job, i](absl::StatusOr<FetchedImage> image) { job->TakeImage(i, std::move(image)); });
  }
  return absl::OkStatus();
}

}  // namespace siglip
