#include "server/server.h"

#include <chrono>
#include <utility>

#include "base/host_port.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "protocol/text.h"
#include "server/door_addresses.h"
#include "server/grpc.h"
#include "server/http.h"
#include "server/image_fetcher.h"
#include "server/kserve_routes.h"
#include "server/metrics.h"
#include "server/nvml_gpus.h"
#include "server/openai_routes.h"
#include "server/tls.h"
#include "server/ui.h"

namespace siglip {
namespace {

// What is answered at the end of the exit time-out has so long to be written.
constexpr std::chrono::seconds kLastAnswers{1};

std::optional<HttpChallenge> Authorize(const DoorState& state, const HttpHead& head) {
  const Route route = FindRoute(head.target);
  if (route.kind != RouteKind::kUnknown && NeedsNoApiKey(route.api)) return std::nullopt;
  const ApiKeys::Verdict verdict = state.api_keys.Check(head.authorization);
  if (verdict == ApiKeys::Verdict::kAllowed) return std::nullopt;
  return HttpChallenge{.authenticate = ApiKeyChallenge(verdict), .text = ApiKeyRefusal(verdict)};
}

absl::Status CheckTls(std::string_view door, const TlsFiles& files) {
  return files.enabled ? MakeTlsContext(door, files).status() : absl::OkStatus();
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

Server::Server(const ServerOptions& options) : options_(options), state_(options) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Create(const ServerOptions& options) {
  SIGLIP_RETURN_IF_ERROR(CheckDoorAddresses(options));
  std::unique_ptr<Server> server(new Server(options));
  SIGLIP_RETURN_IF_ERROR(server->state_.Configure(options));
  SIGLIP_ASSIGN_OR_RETURN(MetricsSettings metrics, ParseMetricsConfig(options.metrics_config));
  metrics.machine = options.allow_cpu_metrics;
  server->metrics_settings_ = std::make_unique<MetricsSettings>(std::move(metrics));
  // The doors read their files anew.
  if (options.allow_http) SIGLIP_RETURN_IF_ERROR(CheckTls("http", options.http_tls));
  if (options.allow_grpc) SIGLIP_RETURN_IF_ERROR(CheckTls("grpc", options.grpc_tls));
  server->body_budget_ =
      std::make_shared<Budget>(static_cast<std::int64_t>(options.http_max_buffered_bytes));
  if (!options.image_url_allow.empty()) {
    SIGLIP_ASSIGN_OR_RETURN(server->image_fetcher_,
                            ImageFetcher::Start({.allow = options.image_url_allow,
                                                 .allow_private = options.image_url_allow_private,
                                                 .root_cert = options.image_url_root_cert,
                                                 .max_bytes = options.http_max_input_bytes,
                                                 .timeout = options.image_url_timeout,
                                                 .budget = server->body_budget_}));
  }
  return server;
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(Service& service,
                                                      const ServerOptions& options,
                                                      const SearchIndex* index) {
  SIGLIP_ASSIGN_OR_RETURN(std::unique_ptr<Server> server, Create(options));
  SIGLIP_RETURN_IF_ERROR(server->Open(service, index));
  return server;
}

absl::Status Server::CheckPorts() const { return CheckPortsAreFree(options_); }

absl::Status Server::Open(Service& service, const SearchIndex* index) {
  kserve_ = std::make_unique<KServeHandler>(service, state_, options_.http_max_input_bytes);
  openai_ = std::make_unique<OpenAiHandler>(service, state_, options_.http_max_input_bytes,
                                            image_fetcher_.get(), *kserve_);
  HttpHandler* http_handler = openai_.get();
  if (options_.allow_ui) {
    ui_ = std::make_unique<UiHandler>(state_, index, *openai_);
    http_handler = ui_.get();
  }
  metrics_handler_ = std::make_unique<MetricsHandler>(
      service, state_, *std::exchange(metrics_settings_, nullptr), OpenGpus(options_));
  HttpSettings settings{options_.http_limits};
  settings.body_budget = body_budget_;
  settings.answer_budget =
      std::make_shared<Budget>(static_cast<std::int64_t>(options_.http_max_buffered_bytes));
  settings.tls = options_.http_tls;
  settings.refusals = &state_.http_refusals;
  settings.reuse_port = options_.reuse_http_port;
  settings.keep_headers = !state_.http_restricted.empty() || !state_.http_forwarding.empty();
  settings.authorize = [this](const HttpHead& head) { return Authorize(state_, head); };
  settings.body_bytes = options_.http_max_input_bytes;
  settings.connections = options_.http_max_connections;
  if (options_.allow_http) {
    SIGLIP_ASSIGN_OR_RETURN(http_,
                            HttpServer::Start("http", options_.http_address, options_.http_port,
                                              options_.http_thread_count, settings, *http_handler));
  }
  if (options_.allow_grpc) {
    SIGLIP_ASSIGN_OR_RETURN(grpc_, GrpcServer::Start(service, state_, options_));
  }
  if (options_.allow_metrics) {
    // A scrape has no body, and one thread answers all of them.
    settings.body_bytes = 0;
    settings.tls = {};
    settings.refusals = nullptr;
    settings.reuse_port = false;
    settings.keep_headers = false;
    settings.authorize = {};
    SIGLIP_ASSIGN_OR_RETURN(
        metrics_, HttpServer::Start("metrics", options_.metrics_address, options_.metrics_port, 1,
                                    settings, *metrics_handler_));
  }
  return absl::OkStatus();
}

Server::~Server() {
  // The doors wait for every answer, and a URL's server may take its time.
  if (image_fetcher_) image_fetcher_->End();
}

absl::Status Server::Reload() {
  absl::Status status = state_.api_keys.Load(options_.api_key_file);
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
  if (!done && image_fetcher_) {
    // Who waits for another host has its answer still.
    image_fetcher_->End();
    if (http_) http_->WaitDrained(deadline + kLastAnswers);
  }
  // Metrics last: the drain itself can be watched.
  if (metrics_) metrics_->BeginDrain();
  return done;
}

std::string ListeningLine(const ServerOptions& options, const ServerPorts& ports) {
  std::string line = "listening";
  const auto add = [&line](const char* door, const std::string& address, std::uint16_t port) {
    AppendAll(line, " ", door, "=", JoinHostPort(address, port));
  };
  if (options.allow_http) add("http", options.http_address, ports.http);
  if (options.allow_grpc) add("grpc", options.grpc_address, ports.grpc);
  if (options.allow_metrics) add("metrics", options.metrics_address, ports.metrics);
  return line;
}

}  // namespace siglip
