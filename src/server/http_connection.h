#pragma once

// One connection of HttpServer. Private to this folder.

#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/beast/core/buffers_range.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>

#include "base/mutex.h"
#include "server/http.h"
#include "server/http_stream.h"

namespace siglip {

// Which connections are open, for draining. Thread-safe.
class ConnectionRegistry {
 public:
  void Add(const std::shared_ptr<HttpConnection>& connection);
  void Remove(HttpConnection* connection);
  std::size_t size() const;
  std::vector<std::shared_ptr<HttpConnection>> All() const;
  bool WaitEmpty(std::chrono::steady_clock::time_point deadline);

  // Removes its connection with its own end.
  class Entry {
   public:
    Entry(std::shared_ptr<ConnectionRegistry> registry, HttpConnection* connection)
        : registry_(std::move(registry)), connection_(connection) {}
    ~Entry() { registry_->Remove(connection_); }
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;

   private:
    const std::shared_ptr<ConnectionRegistry> registry_;
    HttpConnection* const connection_;
  };

 private:
  mutable Mutex mu_;
  CondVar removed_;
  std::vector<std::pair<HttpConnection*, std::weak_ptr<HttpConnection>>> open_
      SIGLIP_GUARDED_BY(mu_);
};

// A beast body that fills a PaddedBody, for chunked requests.
struct PaddedBeastBody {
  using value_type = PaddedBody;

  static std::uint64_t size(const value_type& body) { return body.size(); }

  class reader {
   public:
    template <bool is_request, class Fields>
    reader(boost::beast::http::header<is_request, Fields>&, value_type& body) : body_(body) {}

    void init(const boost::optional<std::uint64_t>&, boost::system::error_code& error) {
      error = {};
    }

    template <class Buffers>
    std::size_t put(const Buffers& buffers, boost::system::error_code& error) {
      error = {};
      std::size_t total = 0;
      for (const boost::asio::const_buffer buffer : boost::beast::buffers_range_ref(buffers)) {
        body_.Append({static_cast<const char*>(buffer.data()), buffer.size()});
        total += buffer.size();
      }
      return total;
    }

    void finish(boost::system::error_code& error) { error = {}; }

   private:
    value_type& body_;
  };
};

// A beast DynamicBuffer: the buffer that it borrows, with an eye on what is consumed. Beast joins
// lines of a head that are folded (RFC 9112, 5.2) before anyone can see them.
class HeadBuffer {
 public:
  using const_buffers_type = boost::beast::flat_buffer::const_buffers_type;
  using mutable_buffers_type = boost::beast::flat_buffer::mutable_buffers_type;

  explicit HeadBuffer(boost::beast::flat_buffer& buffer) : buffer_(buffer) {}

  // Of the head that comes next.
  void Begin() { at_line_start_ = has_folds_ = false; }
  // Whether a line of the head begins with white space.
  bool has_folds() const { return has_folds_; }

  std::size_t size() const { return buffer_.size(); }
  std::size_t max_size() const { return buffer_.max_size(); }
  std::size_t capacity() const { return buffer_.capacity(); }
  const_buffers_type data() const { return buffer_.cdata(); }
  mutable_buffers_type prepare(std::size_t bytes) { return buffer_.prepare(bytes); }
  void commit(std::size_t bytes) { buffer_.commit(bytes); }
  void consume(std::size_t bytes) {
    const std::string_view head(static_cast<const char*>(data().data()), bytes);
    for (const char c : head) {
      has_folds_ = has_folds_ || (at_line_start_ && (c == ' ' || c == '\t'));
      at_line_start_ = c == '\n';
    }
    buffer_.consume(bytes);
  }

 private:
  boost::beast::flat_buffer& buffer_;
  bool at_line_start_ = false;
  bool has_folds_ = false;
};

// Everything but the constructor and the registry runs on the connection's strand.
class HttpConnection final : public std::enable_shared_from_this<HttpConnection> {
 public:
  // `tls` null: no TLS.
  HttpConnection(HttpStream::Socket socket, std::shared_ptr<boost::asio::ssl::context> tls,
                 const HttpSettings& settings, HttpHandler& handler,
                 std::shared_ptr<ConnectionRegistry> registry);

  // Any thread.
  void Start();
  void Drain();
  void Close();
  void Send(std::function<HttpResponse()> make);
  // In place of Send, when that has no memory.
  void HangUp();
  // Of the server's own, in the handler's form. On the strand, while an answer is owed.
  HttpResponse OwnRefusal(int status, std::string_view text) const;
  // The same, 503, overloaded.
  HttpResponse OwnOverload(std::string_view text) const;

 private:
  using Error = boost::system::error_code;
  enum class State { kIdle, kReading, kHandling, kWriting, kClosing };

  void Handshake();
  void WaitForRequest();
  void ReadHead();
  void OnHead(Error error);
  // The status and text of a refusal that the head alone decides; status 0 = none.
  std::pair<int, std::string> CheckHead() const;
  // Of a body, "request body of N bytes" or without a number.
  std::string TooLarge(std::string_view body) const;
  std::optional<HttpChallenge> CheckAuthorization() const;
  // What routes read of the head, into `request_`.
  void TakeHead();
  void ReadBody();
  void ReadSizedBody(std::size_t size);
  void ReadPiece(std::span<char> room);
  void ReadChunks();
  // The body's next bytes, up to `bytes`, must be there before the minimum rate says so.
  void ExpectBodyBytes(std::size_t bytes);
  // False if the bodies of all connections have no room for so much more.
  bool HoldBody(std::size_t bytes);
  void ReadChunkedBody();
  void OnChunked(Error error);
  void Dispatch();
  void WatchForDisconnect();
  void WatchForHangUp();
  void CancelExchange();
  // False if the answers of all connections have no room for this one's text.
  bool HoldAnswer(const HttpResponse& response);
  // That there is none; or the end, if there is none for that either.
  void WriteWithoutMemory();
  void Write(HttpResponse response);
  void WritePiece();
  void OnPieceWritten(Error error);
  void OnWritten(Error error);
  void Refuse(int status, std::string_view text);
  void Refuse(HttpResponse response);
  void EndWriting();
  void Linger();
  void Shut();
  // While draining: a client may have sent its next request before it could know. It has
  // `drain_grace` to arrive.
  void ShutIfStillIdle();
  // While draining: the rest of the request that is being read has `drain_read_timeout`.
  void EndReadingSoon();
  // In place of the operation that reads on, or that was cancelled for it.
  void RefuseLateRequest();
  std::chrono::steady_clock::duration TransferTimeout(std::size_t bytes) const;

  const HttpSettings& settings_;
  HttpHandler& handler_;
  // Before what uses the server, so the last to go: whoever waits for the registry to be empty then
  // ends the server, `stream_`'s io_context with it.
  const ConnectionRegistry::Entry entry_;
  HttpStream stream_;
  boost::beast::flat_buffer buffer_;
  HeadBuffer head_buffer_{buffer_};
  std::optional<boost::beast::http::request_parser<boost::beast::http::empty_body>> head_;
  std::optional<boost::beast::http::request_parser<PaddedBeastBody>> chunked_;
  std::function<void(std::uint64_t, boost::beast::string_view, Error&)> on_chunk_;
  HttpRequest request_;  // whose body is being read
  std::shared_ptr<PaddedBody> body_;
  Budget::Hold body_hold_;      // until the body is complete
  bool out_of_room_ = false;    // of a chunked body
  std::size_t body_limit_ = 0;  // of the target's route
  std::chrono::steady_clock::time_point body_start_;
  std::size_t body_bytes_read_ = 0;
  std::weak_ptr<HttpExchange> exchange_;
  std::int64_t receive_start_ns_ = 0;
  std::int64_t request_end_ns_ = 0;  // steady clock, when all of the request was there
  State state_ = State::kIdle;
  bool keep_alive_ = true;
  bool is_http10_ = false;
  bool is_head_method_ = false;
  std::string target_;  // of the request whose answer is owed; empty until its head is known
  bool draining_ = false;
  bool too_late_ = false;  // for the request that is being read: the server is draining
  bool watching_ = false;
  std::size_t chunk_count_ = 0;
  // What is being written.
  std::string response_head_;
  HttpResponse response_;
  Budget::Hold answer_hold_;
  std::deque<boost::asio::const_buffer> unwritten_;
  std::chrono::steady_clock::time_point write_start_;
  std::size_t bytes_written_ = 0;  // with those of the piece under way
};

}  // namespace siglip
