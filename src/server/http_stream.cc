#include "server/http_stream.h"

namespace siglip {

namespace asio = boost::asio;

HttpStream::HttpStream(Socket socket, std::shared_ptr<asio::ssl::context> tls)
    : plain_(std::move(socket)), context_(std::move(tls)) {
  if (context_ != nullptr) tls_.emplace(plain_, *context_);
}

void HttpStream::ReadSome(asio::mutable_buffer buffer, OnTransfer done) {
  if (tls_) return tls_->async_read_some(buffer, std::move(done));
  plain_.async_read_some(buffer, std::move(done));
}

void HttpStream::WriteSome(const ConstBuffers& buffers, OnTransfer done) {
  if (tls_) return tls_->async_write_some(buffers, std::move(done));
  plain_.async_write_some(buffers, std::move(done));
}

void HttpStream::AsyncHandshake(OnDone done) {
  tls_->async_handshake(asio::ssl::stream_base::server, std::move(done));
}

void HttpStream::AsyncFarewell(OnDone done) { tls_->async_shutdown(std::move(done)); }

}  // namespace siglip
