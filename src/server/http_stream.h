#pragma once

// The bytes of one HTTP connection, as they are or inside TLS. Private to this folder.

#include <memory>
#include <optional>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/strand.hpp>
#include <boost/beast/core/tcp_stream.hpp>

namespace siglip {

// A stream in Asio's sense. Confined to its strand.
class HttpStream {
 public:
  using Strand = boost::asio::strand<boost::asio::io_context::executor_type>;
  using Socket = boost::asio::basic_stream_socket<boost::asio::ip::tcp, Strand>;
  using Plain = boost::beast::basic_stream<boost::asio::ip::tcp, Strand>;
  using executor_type = Plain::executor_type;

  // `tls` null: no TLS.
  HttpStream(Socket socket, std::shared_ptr<boost::asio::ssl::context> tls)
      : plain_(std::move(socket)), context_(std::move(tls)) {
    if (context_ != nullptr) tls_.emplace(plain_, *context_);
  }

  executor_type get_executor() { return plain_.get_executor(); }
  bool is_tls() const { return tls_.has_value(); }
  // Time-outs and the socket itself.
  Plain& plain() { return plain_; }

  template <class Buffers, class Handler>
  void async_read_some(const Buffers& buffers, Handler&& handler) {
    if (tls_) {
      tls_->async_read_some(buffers, std::forward<Handler>(handler));
    } else {
      plain_.async_read_some(buffers, std::forward<Handler>(handler));
    }
  }

  template <class Buffers, class Handler>
  void async_write_some(const Buffers& buffers, Handler&& handler) {
    if (tls_) {
      tls_->async_write_some(buffers, std::forward<Handler>(handler));
    } else {
      plain_.async_write_some(buffers, std::forward<Handler>(handler));
    }
  }

  // REQUIRES: is_tls().
  template <class Handler>
  void AsyncHandshake(Handler&& handler) {
    tls_->async_handshake(boost::asio::ssl::stream_base::server, std::forward<Handler>(handler));
  }
  // Tells the peer that no more follows. REQUIRES: is_tls().
  template <class Handler>
  void AsyncFarewell(Handler&& handler) {
    tls_->async_shutdown(std::forward<Handler>(handler));
  }

 private:
  Plain plain_;
  const std::shared_ptr<boost::asio::ssl::context> context_;
  std::optional<boost::asio::ssl::stream<Plain&>> tls_;
};

}  // namespace siglip
