#include "server/kserve_routes.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <vector>

#include "base/status_macros.h"
#include "protocol/compression.h"
#include "protocol/kserve_http.h"
#include "protocol/messages.h"
#include "protocol/model_config.h"
#include "protocol/proto_json.h"
#include "protocol/status_map.h"
#include "protocol/text.h"

namespace siglip {
namespace {

// More segments than any route has; the rest of a longer path need not be looked at.
constexpr std::size_t kMaxSegments = 8;

using Segments = std::vector<std::string_view>;

Segments Split(std::string_view path) {
  Segments segments;
  if (path.empty() || path[0] != '/') return segments;
  path.remove_prefix(1);
  while (segments.size() <= kMaxSegments) {
    const std::size_t slash = path.find('/');
    segments.push_back(path.substr(0, slash));
    if (slash == std::string_view::npos) break;
    path.remove_prefix(slash + 1);
  }
  return segments;
}

bool IsDigits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// s = v2 models NAME [versions V] [ACTION...]
Route ModelRoute(const Segments& s) {
  if (s.size() == 3 && s[2] == "stats") return {.kind = RouteKind::kStatistics, .method = "GET"};
  if (s.size() < 3 || s[2].empty()) return {};
  Route route{.method = "GET", .model = s[2]};
  std::size_t next = 3;
  if (s.size() >= 5 && s[3] == "versions") {
    if (!IsDigits(s[4])) return {};
    route.version = s[4];
    next = 5;
  }
  const std::size_t left = s.size() - next;
  if (left == 0) {
    route.kind = RouteKind::kModelMetadata;
  } else if (left == 1 && s[next] == "ready") {
    route.kind = RouteKind::kModelReady;
  } else if (left == 1 && s[next] == "config") {
    route.kind = RouteKind::kModelConfig;
  } else if (left == 1 && s[next] == "stats") {
    route.kind = RouteKind::kStatistics;
  } else if (left == 1 && s[next] == "infer") {
    route.kind = RouteKind::kInfer;
    route.method = "POST";
  } else if (left == 1 && (s[next] == "generate" || s[next] == "generate_stream")) {
    route.kind = RouteKind::kGenerate;
    route.method = "POST";
  } else if (left == 2 && next == 3 && s[next] == "trace" && s[next + 1] == "setting") {
    route.kind = RouteKind::kTraceSetting;
    route.method = "";
  }
  return route;
}

// s = v2 repository [REPO] index | v2 repository [REPO] models NAME load|unload
Route RepositoryRoute(const Segments& s) {
  const bool named = s.size() == 4 || s.size() == 6;
  const std::size_t next = named ? 3 : 2;
  Route route{.method = "POST", .named_repository = named};
  if (named && s[2].empty()) return {};
  const std::size_t left = s.size() - std::min(next, s.size());
  if (left == 1 && s[next] == "index") {
    route.kind = RouteKind::kIndex;
  } else if (left == 3 && s[next] == "models" && !s[next + 1].empty() &&
             (s[next + 2] == "load" || s[next + 2] == "unload")) {
    route.kind = RouteKind::kLoadUnload;
    route.model = s[next + 1];
  }
  return route;
}

// s = v2 systemsharedmemory|cudasharedmemory [region NAME] status|register|unregister
Route SharedMemoryRoute(const Segments& s) {
  Route route{.method = "POST"};
  const bool named = s.size() == 5 && s[2] == "region" && !s[3].empty();
  if (!named && s.size() != 3) return {};
  if (named) route.region = s[3];
  const std::string_view action = s.back();
  if (action == "status") {
    route.kind = RouteKind::kSharedMemoryStatus;
    route.method = "GET";
  } else if (action == "register" && named) {
    route.kind = RouteKind::kSharedMemoryRegister;
  } else if (action == "unregister") {
    route.kind = RouteKind::kSharedMemoryUnregister;
  }
  return route;
}

HttpResponse JsonResponse(std::string json) {
  HttpResponse response;
  response.content_type = "application/json";
  response.body = std::move(json);
  return response;
}

HttpResponse EmptyResponse(int status) {
  HttpResponse response;
  response.status = status;
  return response;
}

HttpResponse StatusResponse(const absl::Status& status) {
  const absl::string_view text = status.message();
  return ErrorResponse(HttpStatusOf(status), {text.data(), text.size()});
}

// Packs the answer if the client can unpack it; leaves it as it is if packing fails.
void CompressResponse(Encoding encoding, HttpResponse& response) {
  if (encoding == Encoding::kIdentity) return;
  std::vector<std::string_view> parts = {response.body};
  for (const auto& block : response.blocks) {
    parts.emplace_back(reinterpret_cast<const char*>(block.data()), block.size());
  }
  std::string packed = Compress(parts, encoding);
  if (packed.empty()) return;
  response.body = std::move(packed);
  response.blocks.clear();
  response.headers.emplace_back("Content-Encoding", std::string(EncodingName(encoding)));
}

HttpResponse InferHttpResponse(std::shared_ptr<const InferResponse> answer,
                               const BinaryChoice& binary, Encoding encoding) {
  if (!answer->status.ok()) return StatusResponse(answer->status);
  absl::StatusOr<HttpInferAnswer> rendered = RenderHttpInfer(*answer, binary);
  if (!rendered.ok()) return StatusResponse(rendered.status());
  HttpResponse response = JsonResponse(std::move(rendered->json));
  if (rendered->binary) {
    response.content_type = "application/octet-stream";
    response.headers.emplace_back(kInferHeaderLength, Concat(response.body.size()));
    response.blocks = std::move(rendered->blocks);
    response.storage = std::move(answer);
  }
  CompressResponse(encoding, response);
  return response;
}

// The body as the client meant it: unpacked if it is packed.
absl::StatusOr<std::shared_ptr<PaddedBody>> DecodedBody(HttpRequest& request,
                                                        std::size_t max_bytes) {
  SIGLIP_ASSIGN_OR_RETURN(const Encoding encoding,
                          ParseContentEncoding(request.content_encoding.value_or("")));
  if (encoding == Encoding::kIdentity) return std::move(request.body);
  return Decompress(request.body->view(), max_bytes);
}

std::int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

Route FindRoute(std::string_view target) {
  const Segments s = Split(target.substr(0, target.find('?')));
  if (s.empty() || s.size() > kMaxSegments || s[0] != "v2") return {};
  if (s.size() == 1) return {.kind = RouteKind::kServerMetadata, .method = "GET"};
  if (s[1] == "models") return ModelRoute(s);
  if (s[1] == "repository") return RepositoryRoute(s);
  if (s[1] == "systemsharedmemory" || s[1] == "cudasharedmemory") return SharedMemoryRoute(s);
  if (s.size() == 2 && s[1] == "logging") return {.kind = RouteKind::kLogging, .method = ""};
  if (s.size() != 3) return {};
  if (s[1] == "health" && s[2] == "live") return {.kind = RouteKind::kLive, .method = "GET"};
  if (s[1] == "health" && s[2] == "ready") return {.kind = RouteKind::kReady, .method = "GET"};
  if (s[1] == "trace" && s[2] == "setting") return {.kind = RouteKind::kTraceSetting, .method = ""};
  return {};
}

KServeHandler::KServeHandler(Service& service, const DoorState& state, std::size_t max_input_bytes)
    : service_(service), state_(state), max_input_bytes_(max_input_bytes) {}

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
    if (route.kind != RouteKind::kInfer) return answer_now(Answer(route, request));
    const absl::Status status = Infer(route, request, exchange);
    if (status.ok()) return;
    HttpResponse refusal = StatusResponse(status);
    if (request.content_encoding && absl::IsUnimplemented(status)) {
      refusal.headers.emplace_back("Accept-Encoding", "gzip, deflate");
    }
    answer_now(std::move(refusal));
  } catch (const std::bad_alloc&) {
    answer_now(ErrorResponse(503, "no memory for the request"));
  }
}

HttpResponse KServeHandler::Answer(const Route& route, const HttpRequest& request) const {
  const bool post = request.method == "POST";
  switch (route.kind) {
    case RouteKind::kLive:
      return EmptyResponse(service_.Live() ? 200 : 400);
    case RouteKind::kReady:
      return EmptyResponse(service_.Ready() && !state_.draining.load() ? 200 : 400);
    case RouteKind::kServerMetadata:
      return JsonResponse(ProtoJson(ToProto(service_.Metadata())));
    case RouteKind::kGenerate:
      return StatusResponse(
          absl::UnimplementedError("generate is not offered: no model here makes text"));
    case RouteKind::kTraceSetting:
      return post ? StatusResponse(SettingsRefused("trace")) : JsonResponse(TraceSettingsJson());
    case RouteKind::kLogging:
      return post ? StatusResponse(SettingsRefused("log")) : JsonResponse(LogSettingsJson());
    case RouteKind::kIndex: {
      if (route.named_repository) return StatusResponse(RepositoryNameRefused());
      const absl::StatusOr<bool> ready_only = ParseIndexRequest(*request.body);
      if (!ready_only.ok()) return StatusResponse(ready_only.status());
      return JsonResponse(IndexJson(service_.RepositoryIndex(*ready_only)));
    }
    case RouteKind::kLoadUnload:
      return StatusResponse(LoadUnloadRefused());
    case RouteKind::kSharedMemoryStatus:
      if (route.region.empty()) return JsonResponse("[]");
      return StatusResponse(
          absl::NotFoundError(Concat("Unable to find shared memory region: '", route.region, "'")));
    case RouteKind::kSharedMemoryRegister:
      return StatusResponse(SharedMemoryRefused());
    case RouteKind::kSharedMemoryUnregister:
      return EmptyResponse(200);
    default:
      return ModelAnswer(route);
  }
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
  if (ready.ok()) return EmptyResponse(200);
  // Triton answers 400 for a version that is known but not ready, unlike elsewhere.
  if (absl::IsUnavailable(ready)) return ErrorResponse(400, "Model version not ready");
  return StatusResponse(ready);
}

absl::Status KServeHandler::Infer(const Route& route, HttpRequest& request,
                                  const std::shared_ptr<HttpExchange>& exchange) {
  SIGLIP_ASSIGN_OR_RETURN(std::shared_ptr<PaddedBody> body, DecodedBody(request, max_input_bytes_));
  HttpInferInput input{.model_name = route.model,
                       .model_version = route.version,
                       .header_length = std::nullopt,
                       .body = std::move(body)};
  if (request.infer_header_length) input.header_length = *request.infer_header_length;
  SIGLIP_ASSIGN_OR_RETURN(ParsedInfer parsed, ParseHttpInfer(input));
  input.body.reset();
  parsed.request->times.arrival_ns = NowNs();
  parsed.request->is_cancelled = [exchange] { return exchange->cancelled(); };
  parsed.request->done = [exchange, binary = std::move(parsed.binary),
                          encoding =
                              ChooseEncoding(request.accept_encoding)](InferResponse response) {
    auto answer = std::make_shared<const InferResponse>(std::move(response));
    exchange->Respond([answer = std::move(answer), binary, encoding] {
      return InferHttpResponse(answer, binary, encoding);
    });
  };
  service_.Infer(std::move(parsed.request));
  return absl::OkStatus();
}

}  // namespace siglip
