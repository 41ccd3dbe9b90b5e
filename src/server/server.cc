#include "server/server.h"

#include "base/log.h"
#include "base/status_macros.h"
#include "protocol/text.h"
#include "server/grpc.h"
#include "server/http.h"
#include "server/image_fetcher.h"
#include "server/kserve_routes.h"
#include "server/metrics.h"
#include "server/nvml_gpus.h"
#include "server/openai_routes.h"
#include "server/ui.h"

namespace siglip {
namespace {

std::optional<HttpChallenge> Authorize(const DoorState& state, const HttpHead& head) {
  const Route route = FindRoute(head.target);
  if (route.kind != RouteKind::kUnknown && NeedsNoApiKey(route.api)) return std::nullopt;
  const ApiKeys::Verdict verdict = state.api_keys.Check(head.authorization);
  if (verdict == ApiKeys::Verdict::kAllowed) return std::nullopt;
  return HttpChallenge{.authenticate = ApiKeyChallenge(verdict), .text = ApiKeyRefusal(verdict)};
}

// Null: the metrics door tells nothing of GPUs. Most machines have none.
std::unique_ptr<NvmlGpus> OpenGpus(const ServerOptions& options) {
  if (!options.allow_metrics || !options.allow_gpu_metrics) return nullptr;
  absl::StatusOr<std::unique_ptr<NvmlGpus>> gpus = NvmlGpus::Open();
  if (gpus.ok()) return *std::move(gpus);
  SIGLIP_LOG_DEBUG("gpu_metrics_off reason=\"{}\"", LogSafe(std::string(gpus.status().message())));
  return nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(Service& service,
                                                      const ServerOptions& options,
                                                      const SearchIndex* index) {
  std::unique_ptr<Server> server(new Server(options));
  SIGLIP_RETURN_IF_ERROR(server->state_.Configure(options));
  server->kserve_ =
      std::make_unique<KServeHandler>(service, server->state_, options.http_max_input_bytes);
  HttpSettings settings{options.http_limits};
  settings.body_budget =
      std::make_shared<MemoryBudget>(static_cast<std::int64_t>(options.http_max_buffered_bytes));
  settings.answer_budget =
      std::make_shared<MemoryBudget>(static_cast<std::int64_t>(options.http_max_buffered_bytes));
  if (!options.image_url_allow.empty()) {
    SIGLIP_ASSIGN_OR_RETURN(server->image_fetcher_,
                            ImageFetcher::Start({.allow = options.image_url_allow,
                                                 .allow_private = options.image_url_allow_private,
                                                 .root_cert = options.image_url_root_cert,
                                                 .max_bytes = options.http_max_input_bytes,
                                                 .timeout = options.image_url_timeout,
                                                 .budget = settings.body_budget}));
  }
  server->openai_ =
      std::make_unique<OpenAiHandler>(service, server->state_, options.http_max_input_bytes,
                                      server->image_fetcher_.get(), *server->kserve_);
  HttpHandler* http_handler = server->openai_.get();
  if (options.allow_ui) {
    server->ui_ = std::make_unique<UiHandler>(server->state_, index, *server->openai_);
    http_handler = server->ui_.get();
  }
  SIGLIP_ASSIGN_OR_RETURN(MetricsSettings metrics, ParseMetricsConfig(options.metrics_config));
  server->metrics_handler_ = std::make_unique<MetricsHandler>(
      service, server->state_, std::move(metrics), OpenGpus(options));
  settings.tls = options.http_tls;
  settings.refusals = &server->state_.http_refusals;
  settings.reuse_port = options.reuse_http_port;
  settings.keep_headers =
      !server->state_.http_restricted.empty() || !server->state_.http_forwarding.empty();
  settings.authorize = [state = &server->state_](const HttpHead& head) {
    return Authorize(*state, head);
  };
  settings.body_bytes = options.http_max_input_bytes;
  settings.connections = options.http_max_connections;
  if (options.allow_http) {
    SIGLIP_ASSIGN_OR_RETURN(server->http_,
                            HttpServer::Start("http", options.http_address, options.http_port,
                                              options.http_thread_count, settings, *http_handler));
  }
  if (options.allow_grpc) {
    SIGLIP_ASSIGN_OR_RETURN(server->grpc_, GrpcServer::Start(service, server->state_, options));
  }
  if (options.allow_metrics) {
    // A scrape has no body, and one thread answers all of them.
    settings.body_bytes = 0;
    settings.tls = {};
    settings.refusals = nullptr;
    settings.reuse_port = false;
    settings.keep_headers = false;
    settings.authorize = {};
    SIGLIP_ASSIGN_OR_RETURN(server->metrics_, HttpServer::Start("metrics", options.metrics_address,
                                                                options.metrics_port, 1, settings,
                                                                *server->metrics_handler_));
  }
  return server;
}

Server::Server(const ServerOptions& options)
    : api_key_file_(options.api_key_file), state_(options) {}

Server::~Server() {
  // The doors wait for every answer, and a URL's server may take its time.
  if (image_fetcher_) image_fetcher_->End();
}

absl::Status Server::Reload() {
  absl::Status status = state_.api_keys.Load(api_key_file_);
  if (http_) status.Update(http_->ReloadTls());
  return status;
}

ServerPorts Server::ports() const {
  return {.http = http_ ? http_->port() : std::uint16_t{0},
          .grpc = grpc_ ? grpc_->port() : std::uint16_t{0},
          .metrics = metrics_ ? metrics_->port() : std::uint16_t{0}};
}

void Server::Leave() { state_.leaving.store(true); }

bool Server::Drain(std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  Leave();
  state_.draining.store(true);
  if (http_) http_->BeginDrain();
  if (grpc_) grpc_->BeginDrain();
  bool done = true;
  if (grpc_) done = grpc_->WaitDrained(deadline) && done;
  if (http_) done = http_->WaitDrained(deadline) && done;
  // Metrics last: the drain itself can be watched.
  if (metrics_) metrics_->BeginDrain();
  return done;
}

std::string ListeningLine(const ServerOptions& options, const ServerPorts& ports) {
  std::string line = "listening";
  if (options.allow_http) AppendAll(line, " http=", options.http_address, ":", ports.http);
  if (options.allow_grpc) AppendAll(line, " grpc=", options.grpc_address, ":", ports.grpc);
  if (options.allow_metrics)
    AppendAll(line, " metrics=", options.metrics_address, ":", ports.metrics);
  return line;
}

}  // namespace siglip
