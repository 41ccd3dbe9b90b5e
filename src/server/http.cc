#include "server/http.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "server/connection_guard.h"
#include "server/door_addresses.h"
#include "server/http_connection.h"
#include "server/tls.h"

namespace siglip {

namespace asio = boost::asio;
using asio::ip::tcp;
using Socket = HttpStream::Socket;

struct HttpServer::Impl {
  Impl(std::string_view door, const HttpSettings& http_settings, HttpHandler& http_handler)
      : name(door), settings(http_settings), handler(http_handler) {}

  absl::Status Bind(const std::string& address, std::uint16_t port);
  absl::Status LoadTls();
  std::shared_ptr<asio::ssl::context> CurrentTls();
  void Accept();
  void AcceptLater();
  void OnAccept(boost::system::error_code error, Socket socket);
  void Open(Socket socket);
  void Drain();
  void Run();

  const std::string name;
  const HttpSettings settings;
  HttpHandler& handler;
  const std::shared_ptr<ConnectionRegistry> registry = std::make_shared<ConnectionRegistry>();
  asio::io_context io;
  // A connection whose answer is awaited may wait for nothing of its own: the threads stay for it.
  const asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  // The acceptor, its timer, `draining` and `guard` are used on this strand alone once threads run.
  HttpStream::Strand accept_strand = asio::make_strand(io);
  tcp::acceptor acceptor{accept_strand};
  asio::steady_timer retry{accept_strand};
  bool draining = false;
  ConnectionGuard guard{name, settings.connections};
  Mutex tls_mu;
  std::shared_ptr<asio::ssl::context> tls SIGLIP_GUARDED_BY(tls_mu);  // null without TLS
  std::uint16_t bound_port = 0;
  std::vector<std::thread> threads;
};

absl::Status HttpServer::Impl::Bind(const std::string& address, std::uint16_t port) {
  SIGLIP_ASSIGN_OR_RETURN(const auto ip, ParseAddress(name, address));
  boost::system::error_code error;
  const tcp::endpoint endpoint(ip, port);
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error && settings.reuse_port) acceptor.set_option(ReusePort(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return CannotListen(name, port, address, error.message());
  bound_port = acceptor.local_endpoint(error).port();
  return absl::OkStatus();
}

absl::Status HttpServer::Impl::LoadTls() {
  if (!settings.tls.enabled) return absl::OkStatus();
  SIGLIP_ASSIGN_OR_RETURN(auto context, MakeTlsContext(name, settings.tls));
  MutexLock lock(tls_mu);
  tls = std::move(context);
  return absl::OkStatus();
}

std::shared_ptr<asio::ssl::context> HttpServer::Impl::CurrentTls() {
  MutexLock lock(tls_mu);
  return tls;
}

// Whatever fails, the next connection is awaited: an exception that left out one Accept would shut
// the door for ever.
void HttpServer::Impl::Accept() {
  try {
    acceptor.async_accept(asio::make_strand(io),
                          [this](boost::system::error_code error, Socket socket) {
                            OnAccept(error, std::move(socket));
                          });
  } catch (const std::exception& error) {
    SIGLIP_LOG_ERROR("accept failed door={} error=\"{}\"", name, error.what());
    AcceptLater();
  }
}

// Its operation takes less memory than the one that ended, which Asio gives again.
void HttpServer::Impl::AcceptLater() {
  retry.expires_after(std::chrono::milliseconds(100));
  retry.async_wait([this](boost::system::error_code cancelled) {
    if (!cancelled && acceptor.is_open()) Accept();
  });
}

void HttpServer::Impl::OnAccept(boost::system::error_code error, Socket socket) {
  // A connection may come in the moment that closes the acceptor.
  if (!error) Open(std::move(socket));
  if (!acceptor.is_open()) return;
  if (error) {
    // Out of descriptors, mostly: trying again at once would spin.
    SIGLIP_LOG_WARN("accept failed door={} error=\"{}\"", name, error.message());
    return AcceptLater();
  }
  Accept();
}

void HttpServer::Impl::Open(Socket socket) {
  if (!guard.Admits(socket.native_handle(), registry->size())) return;
  try {
    auto connection = std::make_shared<HttpConnection>(std::move(socket), CurrentTls(), settings,
                                                       handler, registry);
    registry->Add(connection);
    connection->Start();
    if (draining) connection->Drain();
  } catch (const std::exception& error) {
    // No memory for it, mostly: that connection is gone, the door is open.
    SIGLIP_LOG_ERROR("connection dropped door={} error=\"{}\"", name, error.what());
  }
}

void HttpServer::Impl::Drain() {
  boost::system::error_code error;
  // Connections that the kernel has made but nobody accepted would be reset, with their requests.
  acceptor.non_blocking(true, error);
  for (int i = 0; !error && i < asio::socket_base::max_listen_connections; ++i) {
    Socket socket = acceptor.accept(asio::make_strand(io), error);
    if (!error) Open(std::move(socket));
  }
  draining = true;
  acceptor.close(error);
  retry.cancel();
  for (const auto& connection : registry->All()) connection->Drain();
}

void HttpServer::Impl::Run() {
  for (;;) {
    try {
      io.run();
      return;
    } catch (const std::exception& error) {
      // Memory ran out in a handler: that connection is gone, the others go on.
      SIGLIP_LOG_ERROR("connection dropped door={} error=\"{}\"", name, error.what());
    }
  }
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(std::string_view name,
                                                              const std::string& address,
                                                              std::uint16_t port, int num_threads,
                                                              const HttpSettings& settings,
                                                              HttpHandler& handler) {
  auto impl = std::make_unique<Impl>(name, settings, handler);
  SIGLIP_RETURN_IF_ERROR(impl->LoadTls());
  SIGLIP_RETURN_IF_ERROR(impl->Bind(address, port));
  impl->Accept();
  Impl& started = *impl;
  auto server = std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
  SIGLIP_RETURN_IF_ERROR(
      AddThreads(started.threads, std::max(num_threads, 1), [&started](int) { started.Run(); }));
  return server;
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() {
  BeginDrain();
  for (const auto& connection : impl_->registry->All()) connection->Close();
  // Connections whose handler still owes an answer keep themselves alive through it, and need `io`.
  while (!impl_->registry->WaitEmpty(std::chrono::steady_clock::now() + std::chrono::hours(1))) {
  }
  impl_->io.stop();
  for (std::thread& thread : impl_->threads) thread.join();
}

std::uint16_t HttpServer::port() const { return impl_->bound_port; }

std::size_t HttpServer::num_connections() const { return impl_->registry->size(); }

absl::Status HttpServer::ReloadTls() { return impl_->LoadTls(); }

void HttpServer::BeginDrain() {
  asio::dispatch(impl_->accept_strand, [impl = impl_.get()] { impl->Drain(); });
}

bool HttpServer::WaitDrained(std::chrono::steady_clock::time_point deadline) {
  return impl_->registry->WaitEmpty(deadline);
}

}  // namespace siglip
