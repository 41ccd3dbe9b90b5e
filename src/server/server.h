#pragma once

// The three doors (HTTP, gRPC, metrics) in front of one service.

#include <chrono>
#include <memory>

#include "absl/status/statusor.h"
#include "server/door_state.h"
#include "server/options.h"
#include "serving/service.h"

namespace siglip {

class GrpcServer;
class HttpServer;
class ImageFetcher;
class KServeHandler;
class Budget;
class MetricsHandler;
class OpenAiHandler;
class SearchIndex;
class UiHandler;
struct MetricsSettings;

// Thread-safe.
class Server {
 public:
  // Checks the options and reads the files that they name; every door is closed. InvalidArgument
  // names option, file or text: no door allowed, an address that is none, a port given twice.
  static absl::StatusOr<std::unique_ptr<Server>> Create(const ServerOptions& options);
  // Unavailable, as Open would say it, if a port is in use now: for before what takes long.
  absl::Status CheckPorts() const;
  // Opens every allowed door. Unavailable, naming door and port, if a port is in use. `service`
  // and `index`, what the page can search (null: nothing), outlive the server. Called once.
  absl::Status Open(Service& service, const SearchIndex* index = nullptr);
  // Create and Open.
  static absl::StatusOr<std::unique_ptr<Server>> Start(Service& service,
                                                       const ServerOptions& options,
                                                       const SearchIndex* index = nullptr);
  // Closes what Drain has left. Waits for the answers that the service still owes.
  ~Server();

  ServerPorts ports() const;

  // Reads the API keys again, for requests to come, and the TLS files of HTTP, for connections to
  // come. Of what cannot be read the old content stays in use; the error names the first such file.
  absl::Status Reload();

  // Readiness turns false, and nothing else changes: whoever spreads requests over servers has time
  // to look elsewhere before Drain.
  void Leave();

  // Readiness turns false, nothing new is accepted, idle connections are closed, accepted work is
  // finished. True if all of it was answered within `timeout`.
  bool Drain(std::chrono::milliseconds timeout);

 private:
  explicit Server(const ServerOptions& options);

  const ServerOptions options_;
  DoorState state_;
  std::unique_ptr<MetricsSettings> metrics_settings_;  // until Open
  std::shared_ptr<Budget> body_budget_;
  std::unique_ptr<ImageFetcher> image_fetcher_;  // null: no URLs
  std::unique_ptr<KServeHandler> kserve_;
  std::unique_ptr<OpenAiHandler> openai_;
  std::unique_ptr<UiHandler> ui_;
  std::unique_ptr<MetricsHandler> metrics_handler_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<HttpServer> metrics_;
};

// "listening http=0.0.0.0:8000 grpc=[::1]:8001 metrics=0.0.0.0:8002", without closed doors: the
// line that `siglip serve` prints when ready.
std::string ListeningLine(const ServerOptions& options, const ServerPorts& ports);

}  // namespace siglip
