#include "server/kserve_routes.h"

#include <new>

#include "base/clock.h"
#include "base/status_macros.h"
#include "protocol/compression.h"
#include "protocol/control.h"
#include "protocol/generate.h"
#include "protocol/kserve_http.h"
#include "protocol/messages.h"
#include "protocol/model_config.h"
#include "protocol/proto_json.h"
#include "protocol/status_map.h"
#include "protocol/text.h"
#include "server/http_answers.h"

namespace siglip {
namespace {

constexpr KServeRoute kKServeRoutes[] = {
    {{"POST", "/v2/models/{model}/infer", Api::kInference}, RouteKind::kInfer},
    {{"POST", "/v2/models/{model}/versions/{version}/infer", Api::kInference}, RouteKind::kInfer},
    {{"POST", "/v2/models/{model}/generate", Api::kInference}, RouteKind::kGenerate},
    {{"POST", "/v2/models/{model}/versions/{version}/generate", Api::kInference},
     RouteKind::kGenerate},
    {{"POST", "/v2/models/{model}/generate_stream", Api::kInference}, RouteKind::kGenerateStream},
    {{"POST", "/v2/models/{model}/versions/{version}/generate_stream", Api::kInference},
     RouteKind::kGenerateStream},
    {{"GET", "/v2/health/live", Api::kHealth}, RouteKind::kLive},
    {{"GET", "/v2/health/ready", Api::kHealth}, RouteKind::kReady},
    {{"GET", "/v2/models/{model}/ready", Api::kHealth}, RouteKind::kModelReady},
    {{"GET", "/v2/models/{model}/versions/{version}/ready", Api::kHealth}, RouteKind::kModelReady},
    {{"GET", "/v2/models/stats", Api::kStatistics}, RouteKind::kStatistics},
    {{"GET", "/v2/models/{model}/stats", Api::kStatistics}, RouteKind::kStatistics},
    {{"GET", "/v2/models/{model}/versions/{version}/stats", Api::kStatistics},
     RouteKind::kStatistics},
    {{"GET", "/v2", Api::kMetadata}, RouteKind::kServerMetadata},
    {{"GET", "/v2/models/{model}", Api::kMetadata}, RouteKind::kModelMetadata},
    {{"GET", "/v2/models/{model}/versions/{version}", Api::kMetadata}, RouteKind::kModelMetadata},
    {{"GET", "/v2/models/{model}/config", Api::kModelConfig}, RouteKind::kModelConfig},
    {{"GET", "/v2/models/{model}/versions/{version}/config", Api::kModelConfig},
     RouteKind::kModelConfig},
    {{"", "/v2/models/{model}/trace/setting", Api::kTrace}, RouteKind::kTraceSetting},
    {{"", "/v2/trace/setting", Api::kTrace}, RouteKind::kTraceSetting},
    {{"", "/v2/logging", Api::kLogging}, RouteKind::kLogging},
    {{"POST", "/v2/repository/index", Api::kModelRepository}, RouteKind::kIndex},
    {{"POST", "/v2/repository/{repository}/index", Api::kModelRepository}, RouteKind::kIndex},
    {{"POST", "/v2/repository/models/{model}/load", Api::kModelRepository}, RouteKind::kLoad},
    {{"POST", "/v2/repository/{repository}/models/{model}/load", Api::kModelRepository},
     RouteKind::kLoad},
    {{"POST", "/v2/repository/models/{model}/unload", Api::kModelRepository}, RouteKind::kUnload},
    {{"POST", "/v2/repository/{repository}/models/{model}/unload", Api::kModelRepository},
     RouteKind::kUnload},
    {{"GET", "/v2/systemsharedmemory/status", Api::kSharedMemory}, RouteKind::kSharedMemoryStatus},
    {{"GET", "/v2/systemsharedmemory/region/{region}/status", Api::kSharedMemory},
     RouteKind::kSharedMemoryStatus},
    {{"POST", "/v2/systemsharedmemory/region/{region}/register", Api::kSharedMemory},
     RouteKind::kSharedMemoryRegister},
    {{"POST", "/v2/systemsharedmemory/unregister", Api::kSharedMemory},
     RouteKind::kSharedMemoryUnregister},
    {{"POST", "/v2/systemsharedmemory/region/{region}/unregister", Api::kSharedMemory},
     RouteKind::kSharedMemoryUnregister},
    {{"GET", "/v2/cudasharedmemory/status", Api::kSharedMemory}, RouteKind::kSharedMemoryStatus},
    {{"GET", "/v2/cudasharedmemory/region/{region}/status", Api::kSharedMemory},
     RouteKind::kSharedMemoryStatus},
    {{"POST", "/v2/cudasharedmemory/region/{region}/register", Api::kSharedMemory},
     RouteKind::kSharedMemoryRegister},
    {{"POST", "/v2/cudasharedmemory/unregister", Api::kSharedMemory},
     RouteKind::kSharedMemoryUnregister},
    {{"POST", "/v2/cudasharedmemory/region/{region}/unregister", Api::kSharedMemory},
     RouteKind::kSharedMemoryUnregister},
};

bool IsDigits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// Where a {name} of a path goes. False if `segment` cannot stand there.
bool Take(std::string_view name, std::string_view segment, Route& route) {
  if (segment.empty()) return false;
  if (name == "{model}") route.model = segment;
  if (name == "{region}") route.region = segment;
  if (name == "{repository}") route.named_repository = true;
  if (name != "{version}") return true;
  route.version = segment;
  return IsDigits(segment);
}

bool Fits(std::string_view pattern, std::string_view path, Route& route) {
  while (true) {
    const std::size_t pattern_end = pattern.find('/');
    const std::size_t path_end = path.find('/');
    const std::string_view expected = pattern.substr(0, pattern_end);
    const std::string_view segment = path.substr(0, path_end);
    const bool fits =
        expected.starts_with('{') ? Take(expected, segment, route) : expected == segment;
    if (!fits) return false;
    const bool ends = pattern_end == std::string_view::npos;
    if (ends != (path_end == std::string_view::npos)) return false;
    if (ends) return true;
    pattern.remove_prefix(pattern_end + 1);
    path.remove_prefix(path_end + 1);
  }
}

// What a response being written keeps alive; gone once it was sent.
struct BeingSent {
  BeingSent(std::shared_ptr<const InferResponse> response,
            std::shared_ptr<RequestTrace> request_trace)
      : answer(std::move(response)), trace(std::move(request_trace)) {
    if (trace != nullptr) trace->Stamp("HTTP_SEND_START");
  }
  ~BeingSent() {
    if (trace != nullptr) trace->Stamp("HTTP_SEND_END");
  }
  BeingSent(const BeingSent&) = delete;
  BeingSent& operator=(const BeingSent&) = delete;

  const std::shared_ptr<const InferResponse> answer;
  const std::shared_ptr<RequestTrace> trace;
};

HttpResponse InferHttpResponse(std::shared_ptr<const InferResponse> answer,
                               const OutputForms& binary, Encoding encoding) {
  if (!answer->status.ok()) return StatusResponse(answer->status);
  absl::StatusOr<HttpInferAnswer> rendered = RenderHttpInfer(*answer, binary);
  if (!rendered.ok()) return StatusResponse(rendered.status());
  HttpResponse response = JsonResponse(std::move(rendered->json));
  if (rendered->binary) {
    response.content_type = "application/octet-stream";
    response.headers.emplace_back(kInferHeaderLength, Concat(response.body.size()));
    response.blocks = std::move(rendered->blocks);
  }
  CompressResponse(encoding, response);
  return response;
}

HttpResponse GenerateHttpResponse(const InferResponse& answer, bool stream) {
  if (!answer.status.ok()) return StatusResponse(answer.status);
  absl::StatusOr<std::string> rendered = RenderGenerate(answer);
  if (!rendered.ok()) return StatusResponse(rendered.status());
  HttpResponse response = JsonResponse(*std::move(rendered));
  if (stream) {
    response.content_type = "text/event-stream; charset=utf-8";
    response.body = Concat("data: ", response.body, "\n\n");
  }
  return response;
}

}  // namespace

std::span<const KServeRoute> KServeRoutes() { return kKServeRoutes; }

Route FindRoute(std::string_view target) {
  const std::string_view path = PathOf(target);
  for (const KServeRoute& candidate : kKServeRoutes) {
    Route route{.kind = candidate.kind,
                .method = candidate.row.method,
                .api = *candidate.row.api,
                .reads_body = ReadsBody(candidate.row),
                .cuda = candidate.row.path.starts_with("/v2/cuda")};
    if (Fits(candidate.row.path, path, route)) return route;
  }
  return {};
}

KServeHandler::KServeHandler(Service& service, DoorState& state, std::size_t max_input_bytes)
    : service_(service), state_(state), max_input_bytes_(max_input_bytes) {}

std::size_t KServeHandler::BodyLimit(std::string_view target) const {
  return FindRoute(target).reads_body ? HttpHandler::BodyLimit(target) : kUnreadBodyBytes;
}

void KServeHandler::Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
  const auto answer_now = [&](HttpResponse response) {
    exchange->Respond([response = std::move(response)]() mutable { return std::move(response); });
  };
  try {
    const Route route = FindRoute(request.target);
    const bool allowed = route.method.empty() ? request.method == "GET" || request.method == "POST"
                                              : request.method == route.method;
    if (route.kind == RouteKind::kUnknown) return answer_now(ErrorResponse(404, "Not Found"));
    if (!allowed) return answer_now(ErrorResponse(405, "Method Not Allowed"));
    if (auto refusal = Restricted(state_.http_restricted, route.api, request)) {
      return answer_now(*std::move(refusal));
    }
    absl::Status status;
    switch (route.kind) {
      case RouteKind::kLoad:
      case RouteKind::kUnload:
        return ControlModel(route, request, exchange);
      case RouteKind::kInfer:
        status = Infer(route, request, exchange);
        break;
      case RouteKind::kGenerate:
      case RouteKind::kGenerateStream:
        status = Generate(route, request, exchange);
        break;
      default:
        return answer_now(Answer(route, request));
    }
    if (status.ok()) return;
    HttpResponse refusal = StatusResponse(status);
    if (route.kind == RouteKind::kInfer &&
        !ParseContentEncoding(request.content_encoding.value_or("")).ok()) {
      refusal.headers.emplace_back("Accept-Encoding", "gzip, deflate");
    }
    answer_now(std::move(refusal));
  } catch (const std::bad_alloc&) {
    answer_now(OverloadResponse("no memory for the request"));
  }
}

HttpResponse KServeHandler::Answer(const Route& route, const HttpRequest& request) {
  switch (route.kind) {
    case RouteKind::kLive:
      return EmptyResponse(service_.Live() ? 200 : 400);
    case RouteKind::kReady:
      return EmptyResponse(service_.Ready() && !state_.leaving.load() ? 200 : 400);
    case RouteKind::kServerMetadata:
      return JsonResponse(ProtoJson(ToProto(service_.Metadata())));
    case RouteKind::kTraceSetting:
      return TraceAnswer(route, request);
    case RouteKind::kLogging: {
      if (request.method == "GET") return JsonResponse(LogSettingsJson(CurrentLog()));
      const auto body = ParseLogBody(request.body->view());
      if (!body.ok()) return StatusResponse(body.status());
      const auto settings = ApplyLogSettings(*body);
      if (!settings.ok()) return StatusResponse(settings.status());
      return JsonResponse(LogSettingsJson(*settings));
    }
    case RouteKind::kIndex: {
      // As Triton, which reads no repository's name there.
      const absl::StatusOr<bool> ready_only = ParseIndexRequest(*request.body);
      if (!ready_only.ok()) return StatusResponse(ready_only.status());
      return JsonResponse(IndexJson(service_.RepositoryIndex(*ready_only)));
    }
    case RouteKind::kSharedMemoryStatus:
    case RouteKind::kSharedMemoryRegister:
    case RouteKind::kSharedMemoryUnregister:
      return SharedMemoryAnswer(route, request);
    default:
      return ModelAnswer(route);
  }
}

HttpResponse KServeHandler::TraceAnswer(const Route& route, const HttpRequest& request) {
  const std::string model(route.model);
  if (const absl::Status known = CheckTracedModel(service_, model); !known.ok()) {
    return StatusResponse(known);
  }
  if (request.method == "POST") {
    const auto changes = ParseTraceBody(request.body->view());
    if (!changes.ok()) return StatusResponse(changes.status());
    const absl::Status changed = state_.tracer->Update(model, *changes);
    if (!changed.ok()) return StatusResponse(changed);
  }
  return JsonResponse(TraceSettingsJson(state_.tracer->Get(model)));
}

HttpResponse KServeHandler::SharedMemoryAnswer(const Route& route, const HttpRequest& request) {
  const std::string name(route.region);
  const SharedMemoryKind kind = route.cuda ? SharedMemoryKind::kCuda : SharedMemoryKind::kSystem;
  if (route.kind == RouteKind::kSharedMemoryStatus) {
    const auto regions = state_.regions.Status(kind, name);
    return regions.ok() ? JsonResponse(RegionsJson(*regions)) : StatusResponse(regions.status());
  }
  if (route.kind == RouteKind::kSharedMemoryUnregister) {
    state_.regions.Unregister(kind, name);
    return EmptyResponse(200);
  }
  if (const absl::Status allowed = state_.regions.CheckAllowed(); !allowed.ok()) {
    return StatusResponse(allowed);
  }
  auto region = ParseRegionBody(kind, request.body->view());
  if (!region.ok()) return StatusResponse(region.status());
  region->name = name;
  const absl::Status registered = state_.regions.Register(*region);
  return registered.ok() ? EmptyResponse(200) : StatusResponse(registered);
}

void KServeHandler::ControlModel(const Route& route, const HttpRequest& request,
                                 const std::shared_ptr<HttpExchange>& exchange) {
  const auto done = [exchange](const absl::Status& status) {
    exchange->Respond(
        [status] { return status.ok() ? EmptyResponse(200) : StatusResponse(status); });
  };
  if (route.named_repository) return done(RepositoryNameRefused());
  if (route.kind == RouteKind::kLoad) {
    auto body = ParseLoadBody(request.body->view());
    if (!body.ok()) return done(body.status());
    body->set_model_name(std::string(route.model));
    absl::StatusOr<LoadModelRequest> load = ToLoadRequest(*body);
    if (!load.ok()) return done(load.status());
    return service_.LoadModel(*std::move(load), done);
  }
  auto body = ParseUnloadBody(request.body->view());
  if (!body.ok()) return done(body.status());
  body->set_model_name(std::string(route.model));
  const absl::StatusOr<bool> dependents = UnloadsDependents(*body);
  if (!dependents.ok()) return done(dependents.status());
  service_.UnloadModel(body->model_name(), *dependents, done);
}

HttpResponse KServeHandler::ModelAnswer(const Route& route) const {
  const std::string model(route.model);
  const std::string version(route.version);
  if (route.kind == RouteKind::kModelMetadata) {
    const auto metadata = service_.GetModelMetadata(model, version);
    return metadata.ok() ? JsonResponse(ProtoJson(ToProto(*metadata)))
                         : StatusResponse(metadata.status());
  }
  if (route.kind == RouteKind::kModelConfig) {
    const auto config = service_.GetModelConfig(model, version);
    return config.ok() ? JsonResponse(ModelConfigJson(**config)) : StatusResponse(config.status());
  }
  if (route.kind == RouteKind::kStatistics) {
    const auto statistics = service_.GetStatistics(model, version);
    return statistics.ok() ? JsonResponse(ProtoJson(ToProto(*statistics)))
                           : StatusResponse(statistics.status());
  }
  const absl::Status ready = service_.ModelReady(model, version);
  return ready.ok() ? EmptyResponse(200) : StatusResponse(ready);
}

absl::Status KServeHandler::Infer(const Route& route, HttpRequest& request,
                                  const std::shared_ptr<HttpExchange>& exchange) {
  // Told before anything that is wrong with the request.
  SIGLIP_RETURN_IF_ERROR(
      service_.GetModelConfig(std::string(route.model), std::string(route.version)).status());
  SIGLIP_ASSIGN_OR_RETURN(std::shared_ptr<PaddedBody> body, DecodedBody(request, max_input_bytes_));
  HttpInferInput input{.model_name = route.model,
                       .model_version = route.version,
                       .header_length = std::nullopt,
                       .body = std::move(body),
                       .regions = &state_.regions};
  if (request.infer_header_length) input.header_length = *request.infer_header_length;
  SIGLIP_ASSIGN_OR_RETURN(ParsedInfer parsed, ParseHttpInfer(input));
  input.body.reset();
  // Starting with the request's trace: it is written when the answer has been sent.
  std::shared_ptr<RequestTrace> trace = state_.tracer->Sample(parsed.request->model_name);
  parsed.request->trace = trace;
  parsed.request->done = [exchange, trace = std::move(trace), regions = &state_.regions,
                          binary = std::move(parsed.binary),
                          encoding =
                              ChooseEncoding(request.accept_encoding)](InferResponse response) {
    WriteSharedOutputs(regions, binary.shared_memory, response);
    auto answer = std::make_shared<const InferResponse>(std::move(response));
    exchange->Respond([answer = std::move(answer), trace, binary, encoding] {
      auto sent = std::make_shared<const BeingSent>(answer, trace);
      HttpResponse http = InferHttpResponse(answer, binary, encoding);
      http.storage = std::move(sent);
      return http;
    });
  };
  Submit(std::move(parsed.request), request, exchange);
  return absl::OkStatus();
}

absl::Status KServeHandler::Generate(const Route& route, const HttpRequest& request,
                                     const std::shared_ptr<HttpExchange>& exchange) {
  if (!EqualsIgnoreCase(request.content_encoding.value_or("identity"), "identity")) {
    return absl::InvalidArgumentError(
        "Unsupported content-encoding, only 'identity' is supported.");
  }
  SIGLIP_ASSIGN_OR_RETURN(
      const std::shared_ptr<const ModelConfig> config,
      service_.GetModelConfig(std::string(route.model), std::string(route.version)));
  SIGLIP_ASSIGN_OR_RETURN(GenerateBody generate, GenerateToInfer(request.body->view(), *config));
  const HttpInferInput input{.model_name = route.model,
                             .model_version = route.version,
                             .header_length = std::nullopt,
                             .body = std::make_shared<const PaddedBody>(generate.infer),
                             .regions = nullptr};
  SIGLIP_ASSIGN_OR_RETURN(ParsedInfer parsed, ParseHttpInfer(input));
  parsed.request->parameters = std::move(generate.parameters);
  std::shared_ptr<RequestTrace> trace = state_.tracer->Sample(parsed.request->model_name);
  parsed.request->trace = trace;
  parsed.request->done = [exchange, trace = std::move(trace),
                          stream =
                              route.kind == RouteKind::kGenerateStream](InferResponse response) {
    auto answer = std::make_shared<const InferResponse>(std::move(response));
    exchange->Respond([answer = std::move(answer), trace, stream] {
      auto sent = std::make_shared<const BeingSent>(answer, trace);
      HttpResponse http = GenerateHttpResponse(*answer, stream);
      http.storage = std::move(sent);
      return http;
    });
  };
  Submit(std::move(parsed.request), request, exchange);
  return absl::OkStatus();
}

void KServeHandler::Submit(std::unique_ptr<InferRequest> infer, const HttpRequest& request,
                           const std::shared_ptr<HttpExchange>& exchange) {
  if (infer->trace != nullptr) {
    infer->trace_id = infer->trace->NextId();
    infer->trace->Stamp("HTTP_RECV_START", request.receive_start_ns);
    infer->trace->Stamp("HTTP_RECV_END");
  }
  if (!state_.http_forwarding.empty()) {
    for (const auto& [name, value] : request.headers) {
      state_.http_forwarding.Forward(name, value, infer->parameters);
    }
  }
  infer->times.arrival_ns = SteadyNowNs();
  infer->is_cancelled = [exchange] { return exchange->cancelled(); };
  service_.Infer(std::move(infer));
}

}  // namespace siglip
