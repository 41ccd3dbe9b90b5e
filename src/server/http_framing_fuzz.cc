// Bytes: what a client sends on one connection before it closes its side. The connection must end
// by itself, whatever they are, and must not hand over more than came.
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/strand.hpp>

#include "base/check.h"
#include "server/http.h"
#include "server/http_connection.h"

namespace siglip {
namespace {

namespace asio = boost::asio;

// Fits a socket's buffer, so that one thread is client and server.
constexpr std::size_t kMaxInput = 32 << 10;
constexpr std::chrono::seconds kHang{5};

class CountingHandler final : public HttpHandler {
 public:
  void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    ++requests;
    bytes += request.target.size() + request.body->size();
    SIGLIP_CHECK(!request.target.empty() &&
                 request.target.find_first_of(std::string_view("\r\n\0 ", 4)) == std::string::npos);
    for (const auto& [name, value] : request.headers) {
      SIGLIP_CHECK(!name.empty() &&
                   value.find_first_of(std::string_view("\r\n\0", 3)) == std::string::npos);
      bytes += name.size() + value.size();
    }
    exchange->Respond([] { return ErrorResponse(400, "fuzzed"); });
  }

  std::size_t requests = 0;
  std::size_t bytes = 0;  // of targets, fields and bodies
};

HttpSettings FuzzSettings() {
  HttpSettings settings;
  settings.keep_headers = true;
  settings.body_bytes = 8 << 10;
  settings.chunks = 16;
  settings.linger_timeout = std::chrono::milliseconds(100);
  return settings;
}

// Takes what the server has written; nothing if there is none yet.
void Drain(int client, std::string& answers) {
  std::array<char, 4096> piece;
  ssize_t n;
  while ((n = ::recv(client, piece.data(), piece.size(), MSG_DONTWAIT)) > 0) {
    answers.append(piece.data(), static_cast<std::size_t>(n));
  }
}

void RunConnection(std::string_view sent) {
  std::array<int, 2> ends{};
  SIGLIP_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
  const auto [client, server] = ends;
  SIGLIP_CHECK(::send(client, sent.data(), sent.size(), 0) == static_cast<ssize_t>(sent.size()));
  SIGLIP_CHECK(::shutdown(client, SHUT_WR) == 0);

  const HttpSettings settings = FuzzSettings();
  CountingHandler handler;
  std::string answers;
  const auto registry = std::make_shared<ConnectionRegistry>();
  asio::io_context context(1);
  {
    HttpStream::Socket socket(asio::make_strand(context));
    socket.assign(asio::ip::tcp::v4(), server);
    const auto connection =
        std::make_shared<HttpConnection>(std::move(socket), nullptr, settings, handler, registry);
    registry->Add(connection);
    connection->Start();
  }
  const auto deadline = std::chrono::steady_clock::now() + kHang;
  while (!context.stopped()) {
    SIGLIP_CHECK(std::chrono::steady_clock::now() < deadline);
    context.run_one_for(std::chrono::milliseconds(10));
    Drain(client, answers);
  }
  Drain(client, answers);
  ::close(client);
  SIGLIP_CHECK(registry->size() == 0);
  SIGLIP_CHECK(handler.bytes <= sent.size());
  SIGLIP_CHECK(answers.empty() || answers.starts_with("HTTP/1."));
  SIGLIP_CHECK(handler.requests == 0 || !answers.empty());
}

}  // namespace
}  // namespace siglip

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > siglip::kMaxInput) return 0;
  siglip::RunConnection({reinterpret_cast<const char*>(data), size});
  return 0;
}
