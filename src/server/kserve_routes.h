#pragma once

// The route table of the KServe v2 HTTP door, exact to Triton's (docs/protocol.md).

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "server/door_state.h"
#include "server/http.h"
#include "serving/service.h"

namespace siglip {

enum class RouteKind {
  kUnknown,
  kLive,
  kReady,
  kServerMetadata,
  kModelMetadata,
  kModelReady,
  kModelConfig,
  kStatistics,
  kInfer,
  kGenerate,
  kGenerateStream,
  kTraceSetting,
  kLogging,
  kIndex,
  kLoad,
  kUnload,
  kSharedMemoryStatus,
  kSharedMemoryRegister,
  kSharedMemoryUnregister,
};

struct KServeRoute {
  RouteRow row;
  RouteKind kind = RouteKind::kUnknown;
};

// Every route of this door. The first that fits is taken.
std::span<const KServeRoute> KServeRoutes();

struct Route {
  RouteKind kind = RouteKind::kUnknown;
  std::string_view method = {};  // the only one allowed; empty = GET and POST
  Api api = Api::kMetadata;
  bool reads_body = true;
  std::string_view model = {};    // view of the path
  std::string_view version = {};  // digits, or empty
  std::string_view region = {};   // shared memory: its name, or empty
  bool named_repository = false;
  bool cuda = false;  // shared memory: of a GPU
};

// `target` as received; what follows a '?' is not part of the match. Nothing is decoded.
Route FindRoute(std::string_view target);

class KServeHandler final : public HttpHandler {
 public:
  // All outlive the handler.
  KServeHandler(Service& service, DoorState& state, std::size_t max_input_bytes);
  void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override;
  std::size_t BodyLimit(std::string_view target) const override;

 private:
  HttpResponse Answer(const Route& route, const HttpRequest& request);
  HttpResponse SharedMemoryAnswer(const Route& route, const HttpRequest& request);
  HttpResponse TraceAnswer(const Route& route, const HttpRequest& request);
  void ControlModel(const Route& route, const HttpRequest& request,
                    const std::shared_ptr<HttpExchange>& exchange);
  HttpResponse ModelAnswer(const Route& route) const;
  absl::Status Infer(const Route& route, HttpRequest& request,
                     const std::shared_ptr<HttpExchange>& exchange);
  absl::Status Generate(const Route& route, const HttpRequest& request,
                        const std::shared_ptr<HttpExchange>& exchange);
  // Trace and forwarded headers; then to the service.
  void Submit(std::unique_ptr<InferRequest> infer, const HttpRequest& request,
              const std::shared_ptr<HttpExchange>& exchange);

  Service& service_;
  DoorState& state_;
  const std::size_t max_input_bytes_;
};

}  // namespace siglip
