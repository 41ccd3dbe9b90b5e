#pragma once

// The bytes of one HTTP connection, as they are or inside TLS. Private to this folder.

#include <cstddef>
#include <memory>
#include <optional>
#include <utility>

#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/strand.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/container/static_vector.hpp>
#include "absl/functional/any_invocable.h"

namespace siglip {

// A stream in Asio's sense. Confined to its strand. Its operations take handlers of one type, so
// that what Asio and TLS make of an operation is compiled once, and not for every handler.
class HttpStream {
 public:
  using Strand = boost::asio::strand<boost::asio::io_context::executor_type>;
  using Socket = boost::asio::basic_stream_socket<boost::asio::ip::tcp, Strand>;
  using Plain = boost::beast::basic_stream<boost::asio::ip::tcp, Strand>;
  using executor_type = Plain::executor_type;
  // Called once, on the strand.
  using OnDone = absl::AnyInvocable<void(boost::system::error_code)>;
  using OnTransfer = absl::AnyInvocable<void(boost::system::error_code, std::size_t bytes)>;

  // `tls` null: no TLS.
  HttpStream(Socket socket, std::shared_ptr<boost::asio::ssl::context> tls);

  executor_type get_executor() { return plain_.get_executor(); }
  bool is_tls() const { return tls_.has_value(); }
  // Time-outs and the socket itself.
  Plain& plain() { return plain_; }

  // At most the first of several buffers is filled, at most the first kBuffers are written.
  template <class Buffers, class Handler>
  void async_read_some(const Buffers& buffers, Handler&& handler) {
    ReadSome(*boost::asio::buffer_sequence_begin(buffers), std::forward<Handler>(handler));
  }
  template <class Buffers, class Handler>
  void async_write_some(const Buffers& buffers, Handler&& handler) {
    ConstBuffers first;
    const auto end = boost::asio::buffer_sequence_end(buffers);
    for (auto it = boost::asio::buffer_sequence_begin(buffers);
         it != end && first.size() < kBuffers; ++it) {
      first.push_back(*it);
    }
    WriteSome(first, std::forward<Handler>(handler));
  }

  // REQUIRES: is_tls().
  void AsyncHandshake(OnDone done);
  // Tells the peer that no more follows. REQUIRES: is_tls().
  void AsyncFarewell(OnDone done);

 private:
  static constexpr std::size_t kBuffers = 16;
  using ConstBuffers = boost::container::static_vector<boost::asio::const_buffer, kBuffers>;

  void ReadSome(boost::asio::mutable_buffer buffer, OnTransfer done);
  void WriteSome(const ConstBuffers& buffers, OnTransfer done);

  Plain plain_;
  const std::shared_ptr<boost::asio::ssl::context> context_;
  std::optional<boost::asio::ssl::stream<Plain&>> tls_;
};

}  // namespace siglip
