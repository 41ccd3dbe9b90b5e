#pragma once

// An HTTP/1.1 server without any knowledge of routes: connections, framing, limits, time-outs,
// draining. Requests of one connection are answered one after the other; an answer may come from
// any thread.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "protocol/padded_body.h"
#include "server/options.h"
#include "server/refusal_times.h"
#include "serving/budget.h"

namespace siglip {

struct HttpRequest {
  std::string method;
  std::string target;  // as received: neither decoded nor cut at '?'
  std::shared_ptr<PaddedBody> body;
  // The headers that a route reads; nothing if absent.
  std::optional<std::string> infer_header_length;
  std::optional<std::string> content_encoding;
  std::string accept_encoding;
  // All fields as received, if the settings ask for them.
  std::vector<std::pair<std::string, std::string>> headers;
  std::int64_t receive_start_ns = 0;  // steady clock, when the head was complete
};

struct HttpResponse {
  int status = 200;
  std::string content_type;  // empty: no such header
  std::vector<std::pair<std::string_view, std::string>> headers;
  std::string body;
  // Written after `body`; borrow from `storage`.
  std::vector<std::span<const std::byte>> blocks;
  std::shared_ptr<const void> storage;
  // There was no room for the request: written with Retry-After, and its time is recorded.
  bool overloaded = false;
};

HttpResponse ErrorResponse(int status, std::string_view text);
// 503, overloaded.
HttpResponse OverloadResponse(std::string_view text);

class HttpConnection;

// One request's way back. Thread-safe. Respond is called at most once; if the exchange is destroyed
// without, the client gets a 500.
class HttpExchange {
 public:
  explicit HttpExchange(std::shared_ptr<HttpConnection> connection);
  ~HttpExchange();
  HttpExchange(const HttpExchange&) = delete;
  HttpExchange& operator=(const HttpExchange&) = delete;

  // `make` runs on an I/O thread of this server, and builds the answer there. Where there is no
  // memory even for that, the client's connection ends.
  void Respond(std::function<HttpResponse()> make);
  // True once the client has closed its side.
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  friend class HttpConnection;
  std::shared_ptr<HttpConnection> connection_;
  std::atomic<bool> responded_{false};
  // Only ever set; orders nothing else.
  std::atomic<bool> cancelled_{false};
};

// The path of a request's target, without its query.
inline std::string_view PathOf(std::string_view target) {
  return target.substr(0, target.find('?'));
}

class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Called on I/O threads, several at once. Must not block.
  virtual void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) = 0;
  // What the server itself refuses, in the form that clients of `target` read. As Handle.
  virtual HttpResponse Refusal(std::string_view target, int status, std::string_view text) const;
  // How large a body for `target` may be where that is less than the server's own limit. Asked
  // before any of it is read, also of clients that may do nothing else. As Handle.
  virtual std::size_t BodyLimit(std::string_view target) const;
};

// A request as far as it is known before its body is read. Borrows from the request.
struct HttpHead {
  std::string_view target;                        // as HttpRequest's
  std::optional<std::string_view> authorization;  // nothing also if there are several
};

// Why a request is answered with 401.
struct HttpChallenge {
  std::string_view authenticate;  // the field WWW-Authenticate
  std::string_view text;
};

struct HttpSettings : HttpLimits {
  TlsFiles tls = {};
  bool reuse_port = false;
  // Whether HttpRequest::headers is filled.
  bool keep_headers = false;
  // Asked of every request before its body is read and before any route; nothing = it may go on.
  // Empty: all may. Runs on I/O threads, several at once.
  std::function<std::optional<HttpChallenge>(const HttpHead& head)> authorize = {};

  // Where the times of refusals are recorded; borrowed, may be null.
  RefusalTimes* refusals = nullptr;

  std::size_t body_bytes = std::size_t{1} << 26;
  // Of bodies that are being received, of all connections; null = no limit.
  std::shared_ptr<Budget> body_budget = {};
  // Of the texts of answers that are being written, of all connections; null = no limit. Blocks are
  // counted by whoever made them.
  std::shared_ptr<Budget> answer_budget = {};
  // As Triton's: many tiny chunks cost more than their bytes.
  std::size_t chunks = 65536;
  std::size_t connections = 8192;
  // How long bytes are thrown away after a refusal, so that the client reads it before the reset.
  std::chrono::milliseconds linger_timeout{2000};
  // How long a draining server leaves idle connections open: a round trip and more, so that
  // requests that are on their way are answered.
  std::chrono::milliseconds drain_grace{100};
  // How long it waits for the rest of requests of which a part has come. Those that are not whole
  // then were not accepted: they are refused.
  std::chrono::milliseconds drain_read_timeout{2000};
};

// Thread-safe.
class HttpServer {
 public:
  // Binds and starts to serve. Unavailable with address and port if the port is in use. `handler`
  // outlives the server. `name` is for messages ("http").
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(std::string_view name,
                                                           const std::string& address,
                                                           std::uint16_t port, int num_threads,
                                                           const HttpSettings& settings,
                                                           HttpHandler& handler);
  // Closes what is still open. Waits for the answers that the handler still owes.
  ~HttpServer();

  std::uint16_t port() const;
  std::size_t num_connections() const;
  // Reads the TLS files again, for connections to come. With an error the old ones stay in use.
  absl::Status ReloadTls();
  // Accepts the connections that wait, then none; answers what has been sent, closes idle
  // connections, and soon refuses requests that do not come to their end.
  void BeginDrain();
  // True if every connection was done before `deadline`.
  bool WaitDrained(std::chrono::steady_clock::time_point deadline);

  struct Impl;

 private:
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace siglip
