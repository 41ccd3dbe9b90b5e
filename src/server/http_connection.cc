#include "server/http_connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <new>

#include <boost/asio/dispatch.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/buffers_range.hpp>
#include <boost/beast/http/read.hpp>

#include "base/clock.h"
#include "base/log.h"
#include "protocol/json_writer.h"
#include "protocol/kserve_http.h"
#include "protocol/text.h"
#include "serving/overload.h"

namespace siglip {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

// Bytes asked from the socket at once while a head is awaited: most requests' head and more.
constexpr std::size_t kReadBytes = 16 * 1024;
// Room in the buffer for a chunk's header line or trailer beside a full read.
constexpr std::size_t kBufferBytes = 128 * 1024;
// So much of a body is read and then counted at a time.
constexpr std::size_t kPieceBytes = std::size_t{1} << 20;
// How late the hanging up of a client is noticed behind what it sent before: as in queues.
constexpr std::chrono::milliseconds kHangUpInterval{100};
constexpr std::string_view kNoRoom = "Exceeds the memory for request bodies being received";
constexpr std::string_view kNoAnswerRoom = "Exceeds the memory for answers being written";

std::string_view View(beast::string_view text) { return {text.data(), text.size()}; }

std::optional<std::string> Field(const http::fields& fields, std::string_view name) {
  const auto it = fields.find(beast::string_view(name.data(), name.size()));
  if (it == fields.end()) return std::nullopt;
  return std::string(View(it->value()));
}

// The path and query of a target in absolute form, which a server takes as if its authority were
// not there (RFC 9112 3.2.2); other forms as they are. Empty if the authority is.
std::string_view PathOfTarget(std::string_view target) {
  const std::size_t colon = target.find("://");
  if (colon == std::string_view::npos) return target;
  const std::string_view scheme = target.substr(0, colon);
  if (!EqualsIgnoreCase(scheme, "http") && !EqualsIgnoreCase(scheme, "https")) return target;
  target.remove_prefix(colon + 3);
  const std::size_t end = target.find_first_of("/?#");
  if (end == 0 || target.empty()) return {};
  return end == std::string_view::npos ? "/" : target.substr(end);
}

bool HasControls(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](unsigned char c) { return (c < 0x20 && c != '\t') || c == 0x7f; });
}

std::size_t CountField(const http::fields& fields, http::field name) {
  return static_cast<std::size_t>(fields.count(name));
}

std::size_t CountField(const http::fields& fields, std::string_view name) {
  return static_cast<std::size_t>(fields.count({name.data(), name.size()}));
}

}  // namespace

void ConnectionRegistry::Add(const std::shared_ptr<HttpConnection>& connection) {
  MutexLock lock(mu_);
  open_.emplace_back(connection.get(), connection);
}

void ConnectionRegistry::Remove(HttpConnection* connection) {
  MutexLock lock(mu_);
  std::erase_if(open_, [&](const auto& entry) { return entry.first == connection; });
  removed_.NotifyAll();
}

std::size_t ConnectionRegistry::size() const {
  MutexLock lock(mu_);
  return open_.size();
}

std::vector<std::shared_ptr<HttpConnection>> ConnectionRegistry::All() const {
  std::vector<std::shared_ptr<HttpConnection>> all;
  MutexLock lock(mu_);
  for (const auto& [pointer, weak] : open_) {
    if (auto connection = weak.lock()) all.push_back(std::move(connection));
  }
  return all;
}

bool ConnectionRegistry::WaitEmpty(std::chrono::steady_clock::time_point deadline) {
  MutexLock lock(mu_);
  while (!open_.empty()) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= left.zero()) return false;
    removed_.WaitFor(mu_, left);
  }
  return true;
}

HttpExchange::HttpExchange(std::shared_ptr<HttpConnection> connection)
    : connection_(std::move(connection)) {}

HttpExchange::~HttpExchange() {
  if (responded_.load()) return;
  Respond([connection = connection_.get()] {
    return connection->OwnRefusal(500, "the request was dropped");
  });
}

void HttpExchange::Respond(std::function<HttpResponse()> make) {
  if (responded_.exchange(true)) return;
  try {
    connection_->Send(std::move(make));
  } catch (const std::bad_alloc&) {
    connection_->HangUp();
  }
}

HttpConnection::HttpConnection(HttpStream::Socket socket, std::shared_ptr<asio::ssl::context> tls,
                               const HttpSettings& settings, HttpHandler& handler,
                               std::shared_ptr<ConnectionRegistry> registry)
    : settings_(settings),
      handler_(handler),
      entry_(std::move(registry), this),
      stream_(std::move(socket), std::move(tls)),
      buffer_(kBufferBytes) {}

std::chrono::steady_clock::duration HttpConnection::TransferTimeout(std::size_t bytes) const {
  return TransferTime(settings_.body_timeout, bytes, settings_.body_bytes_per_s);
}

void HttpConnection::Start() {
  asio::dispatch(stream_.get_executor(), [self = shared_from_this()] {
    Error ignored;
    // Answers are small and complete: waiting to merge them costs 40 ms.
    self->stream_.plain().socket().set_option(asio::ip::tcp::no_delay(true), ignored);
    self->stream_.plain().expires_after(self->settings_.head_timeout);
    if (self->stream_.is_tls()) return self->Handshake();
    self->WaitForRequest();
  });
}

// The head's time-out covers it: a client that does not finish is closed.
void HttpConnection::Handshake() {
  state_ = State::kReading;
  stream_.AsyncHandshake([self = shared_from_this()](Error error) {
    if (error || self->state_ == State::kClosing) return self->Shut();
    self->stream_.plain().expires_after(self->settings_.head_timeout);
    self->WaitForRequest();
  });
}

void HttpConnection::Drain() {
  asio::dispatch(stream_.get_executor(), [self = shared_from_this()] {
    self->draining_ = true;
    if (self->state_ == State::kIdle) self->ShutIfStillIdle();
    if (self->state_ == State::kReading) self->EndReadingSoon();
  });
}

void HttpConnection::EndReadingSoon() {
  auto timer =
      std::make_shared<asio::steady_timer>(stream_.get_executor(), settings_.drain_read_timeout);
  timer->async_wait([timer, weak = weak_from_this()](Error) {
    const auto self = weak.lock();
    if (!self || self->state_ != State::kReading) return;
    self->too_late_ = true;
    self->stream_.plain().cancel();
  });
}

void HttpConnection::RefuseLateRequest() {
  Refuse(503, "the server is stopping, and this request has not come whole");
}

void HttpConnection::ShutIfStillIdle() {
  auto timer = std::make_shared<asio::steady_timer>(stream_.get_executor(), settings_.drain_grace);
  timer->async_wait([timer, weak = weak_from_this()](Error) {
    const auto self = weak.lock();
    if (self && self->state_ == State::kIdle) self->Shut();
  });
}

void HttpConnection::Close() {
  asio::dispatch(stream_.get_executor(), [self = shared_from_this()] { self->Shut(); });
}

void HttpConnection::Shut() {
  state_ = State::kClosing;
  Error ignored;
  stream_.plain().socket().shutdown(asio::ip::tcp::socket::shutdown_both, ignored);
  stream_.plain().close();
}

// The caller has set the time-out for the first byte.
void HttpConnection::WaitForRequest() {
  state_ = State::kIdle;
  if (buffer_.size() != 0) return ReadHead();
  if (draining_) ShutIfStillIdle();
  stream_.async_read_some(buffer_.prepare(kReadBytes),
                          [self = shared_from_this()](Error error, std::size_t bytes) {
                            if (error || self->state_ == State::kClosing) return;
                            self->buffer_.commit(bytes);
                            self->ReadHead();
                          });
}

void HttpConnection::ReadHead() {
  state_ = State::kReading;
  is_head_method_ = false;
  target_.clear();
  head_.emplace();
  head_->header_limit(settings_.head_bytes);
  head_->body_limit(boost::none);  // checked in CheckHead, with an answer
  if (draining_) EndReadingSoon();
  stream_.plain().expires_after(settings_.head_timeout);
  head_buffer_.Begin();
  http::async_read_header(
      stream_, head_buffer_, *head_,
      [self = shared_from_this()](Error error, std::size_t) { self->OnHead(error); });
}

void HttpConnection::OnHead(Error error) {
  if (state_ == State::kClosing) return;
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    return Refuse(
        431, Concat("request head is larger than the limit of ", settings_.head_bytes, " bytes"));
  }
  if (error.category() == http::make_error_code(http::error::bad_method).category() &&
      error != http::error::end_of_stream && error != http::error::partial_message) {
    return Refuse(400, Concat("malformed HTTP request: ", error.message()));
  }
  if (error) return too_late_ ? RefuseLateRequest() : Shut();
  receive_start_ns_ = SteadyNowNs();
  keep_alive_ = head_->get().keep_alive();
  is_http10_ = head_->get().version() < 11;
  is_head_method_ = head_->get().method() == http::verb::head;
  // Whatever is asked of a target, is asked of this one.
  target_ = std::string(PathOfTarget(View(head_->get().target())));
  body_limit_ = std::min(settings_.body_bytes, handler_.BodyLimit(target_));
  const auto [status, text] = CheckHead();
  if (status != 0) return Refuse(status, text);
  if (const auto challenge = CheckAuthorization()) {
    HttpResponse response = OwnRefusal(401, challenge->text);
    response.headers.emplace_back("WWW-Authenticate", std::string(challenge->authenticate));
    return Refuse(std::move(response));
  }
  ReadBody();
}

std::optional<HttpChallenge> HttpConnection::CheckAuthorization() const {
  if (!settings_.authorize) return std::nullopt;
  const auto& head = head_->get();
  HttpHead known{.target = target_, .authorization = std::nullopt};
  if (CountField(head, http::field::authorization) == 1) {
    known.authorization = View(head[http::field::authorization]);
  }
  return settings_.authorize(known);
}

std::pair<int, std::string> HttpConnection::CheckHead() const {
  const auto& head = head_->get();
  const auto fields = static_cast<std::size_t>(std::distance(head.begin(), head.end()));
  if (fields > settings_.head_fields) {
    return {431,
            Concat("request has ", fields, " header fields, the limit is ", settings_.head_fields)};
  }
  // Anything that two servers in a row could frame differently is refused (request smuggling).
  if (head_buffer_.has_folds()) return {400, "malformed HTTP request: a header field is folded"};
  const std::size_t codings = CountField(head, http::field::transfer_encoding);
  const std::size_t lengths = CountField(head, http::field::content_length);
  if (lengths > 1 || codings > 1 || (lengths == 1 && codings == 1)) {
    return {400, "malformed HTTP request: more than one of Content-Length and Transfer-Encoding"};
  }
  if (lengths == 1 && View(head[http::field::content_length]).find(',') != std::string_view::npos) {
    return {400, "malformed HTTP request: Content-Length is a list"};
  }
  if (codings == 1 && (!EqualsIgnoreCase(View(head[http::field::transfer_encoding]), "chunked") ||
                       head.version() != 11)) {
    return {400, "malformed HTTP request: Transfer-Encoding must be chunked, in HTTP/1.1"};
  }
  // Of two of them one proxy or server takes the first and another the last.
  for (const std::string_view name : {kInferHeaderLength, std::string_view("Content-Encoding")}) {
    if (CountField(head, name) > 1) {
      return {400, Concat("malformed HTTP request: more than one ", name)};
    }
  }
  if (target_.empty()) return {400, "malformed HTTP request: the target names no host"};
  if (head.version() == 11 && CountField(head, http::field::host) != 1) {
    return {400, "malformed HTTP request: exactly one Host field is expected"};
  }
  const auto expect = Field(head, "Expect");
  if (expect && !EqualsIgnoreCase(*expect, "100-continue")) {
    return {417, Concat("unknown expectation '", *expect, "'")};
  }
  const auto length = head_->content_length();
  if (length && *length > body_limit_) {
    return {400, TooLarge(Concat("request body of ", *length, " bytes"))};
  }
  return {0, ""};
}

std::string HttpConnection::TooLarge(std::string_view body) const {
  return Concat(body, " is larger than the limit of ", body_limit_, " bytes",
                body_limit_ < settings_.body_bytes ? " of this path"
                                                   : "; use --http-max-input-size to raise it");
}

void HttpConnection::TakeHead() {
  const auto& head = head_->get();
  request_ = {};
  request_.method = std::string(View(head.method_string()));
  request_.infer_header_length = Field(head, kInferHeaderLength);
  request_.content_encoding = Field(head, "Content-Encoding");
  request_.accept_encoding = Field(head, "Accept-Encoding").value_or("");
  if (!settings_.keep_headers) return;
  for (const auto& field : head) {
    request_.headers.emplace_back(View(field.name_string()), View(field.value()));
  }
}

void HttpConnection::ReadBody() {
  TakeHead();
  const auto& head = head_->get();
  const bool has_body = head_->chunked() || head_->content_length().value_or(0) != 0;
  if (!has_body) {
    body_ = std::make_shared<PaddedBody>("");
    return Dispatch();
  }
  const auto read = [self = shared_from_this()] {
    try {
      if (self->head_->chunked()) return self->ReadChunkedBody();
      return self->ReadSizedBody(static_cast<std::size_t>(*self->head_->content_length()));
    } catch (const std::bad_alloc&) {
      self->Refuse(self->OwnOverload("no memory for the request's body"));
    }
  };
  // A client that waits for 100 Continue sends nothing before it.
  if (!Field(head, "Expect") || buffer_.size() != 0) return read();
  static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
  stream_.plain().expires_after(settings_.head_timeout);
  asio::async_write(stream_, asio::buffer(kContinue.data(), kContinue.size()),
                    [self = shared_from_this(), read](Error error, std::size_t) {
                      if (error) return self->Shut();
                      read();
                    });
}

// Straight into the body: no second copy of megabytes.
void HttpConnection::ReadSizedBody(std::size_t size) {
  body_ = std::make_shared<PaddedBody>();
  const std::span<char> room = body_->Extend(size);
  const std::size_t buffered = std::min(size, buffer_.size());
  if (!HoldBody(buffered)) return Refuse(OwnOverload(kNoRoom));
  std::copy_n(static_cast<const char*>(buffer_.data().data()), buffered, room.data());
  buffer_.consume(buffered);
  body_start_ = std::chrono::steady_clock::now();
  body_bytes_read_ = buffered;
  ReadPiece(room.subspan(buffered));
}

// What a head declares buys no time: a dribbled body of 64 MB would hold its connection for
// minutes.
void HttpConnection::ExpectBodyBytes(std::size_t bytes) {
  stream_.plain().expires_at(body_start_ + TransferTimeout(body_bytes_read_ + bytes));
}

// Memory is taken from the system as the bytes arrive, so it is counted as they arrive: what a head
// declares keeps nobody else out.
void HttpConnection::ReadPiece(std::span<char> room) {
  if (room.empty()) return Dispatch();
  if (too_late_) return RefuseLateRequest();
  const std::size_t piece = std::min(room.size(), kPieceBytes);
  ExpectBodyBytes(piece);
  stream_.async_read_some(asio::buffer(room.data(), piece),
                          [self = shared_from_this(), room](Error error, std::size_t bytes) {
                            if (self->state_ == State::kClosing) return self->Shut();
                            if (error) {
                              return self->too_late_ ? self->RefuseLateRequest() : self->Shut();
                            }
                            if (!self->HoldBody(bytes))
                              return self->Refuse(self->OwnOverload(kNoRoom));
                            self->body_bytes_read_ += bytes;
                            self->ReadPiece(room.subspan(bytes));
                          });
}

bool HttpConnection::HoldBody(std::size_t bytes) {
  return settings_.body_budget == nullptr ||
         settings_.body_budget->TryGrow(body_hold_, static_cast<std::int64_t>(bytes));
}

// Beast puts the fields of a trailer beside those of the head, after all checks: what is asked of
// the head is taken before.
void HttpConnection::ReadChunkedBody() {
  chunked_.emplace(std::move(*head_));
  head_.reset();
  chunked_->body_limit(body_limit_);
  chunk_count_ = 0;
  out_of_room_ = false;
  on_chunk_ = [this](std::uint64_t, beast::string_view extensions, Error& error) {
    // Beast lets any byte into a quoted string; a line feed there ends the line for others.
    if (++chunk_count_ > settings_.chunks || HasControls(View(extensions))) {
      error = http::make_error_code(http::error::bad_chunk);
    }
  };
  chunked_->on_chunk_header(on_chunk_);
  body_start_ = std::chrono::steady_clock::now();
  body_bytes_read_ = 0;
  ReadChunks();
}

// Chunk headers count as bytes: a body of tiny chunks at the full rate is bounded by their number.
void HttpConnection::ReadChunks() {
  if (too_late_) return RefuseLateRequest();
  ExpectBodyBytes(kPieceBytes);
  http::async_read_some(stream_, buffer_, *chunked_,
                        [self = shared_from_this()](Error error, std::size_t bytes) {
                          self->body_bytes_read_ += bytes;
                          self->out_of_room_ = !self->HoldBody(bytes);
                          if (error || self->out_of_room_ || self->chunked_->is_done()) {
                            return self->OnChunked(error);
                          }
                          self->ReadChunks();
                        });
}

void HttpConnection::OnChunked(Error error) {
  if (state_ == State::kClosing) return;
  if (out_of_room_) return Refuse(OwnOverload(kNoRoom));
  if (chunk_count_ > settings_.chunks) {
    return Refuse(400, Concat("request body has more than ", settings_.chunks, " chunks"));
  }
  if (error == http::error::body_limit) return Refuse(400, TooLarge("request body"));
  if (error.category() == http::make_error_code(http::error::bad_chunk).category() &&
      error != http::error::partial_message && error != http::error::end_of_stream) {
    return Refuse(400, Concat("malformed HTTP request: ", error.message()));
  }
  if (error) return too_late_ ? RefuseLateRequest() : Shut();
  const auto& fields = chunked_->get().base();
  const auto count = static_cast<std::size_t>(std::distance(fields.begin(), fields.end()));
  if (count > settings_.head_fields) {
    return Refuse(431,
                  Concat("request has ", count, " fields with those of its trailer, the limit is ",
                         settings_.head_fields));
  }
  body_ = std::make_shared<PaddedBody>(std::move(chunked_->get().body()));
  if (body_->data() == nullptr) body_->Append("");
  Dispatch();
}

void HttpConnection::Dispatch() {
  body_hold_ = Budget::Hold();
  request_end_ns_ = SteadyNowNs();
  state_ = State::kHandling;
  stream_.plain().expires_never();
  HttpRequest request = std::exchange(request_, {});
  request.target = target_;
  request.body = std::move(body_);
  request.receive_start_ns = receive_start_ns_;
  chunked_.reset();
  head_.reset();
  auto exchange = std::make_shared<HttpExchange>(shared_from_this());
  exchange_ = exchange;
  handler_.Handle(std::move(request), std::move(exchange));
  if (state_ == State::kHandling) WatchForDisconnect();
}

// While an answer is awaited nothing reads the socket; a waiting client that goes away shows as
// readable with nothing to read. A half-closed connection counts as gone, as it does in Triton.
void HttpConnection::WatchForDisconnect() {
  if (watching_) return;
  watching_ = true;
  stream_.plain().socket().async_wait(
      asio::ip::tcp::socket::wait_read, [self = shared_from_this()](Error error) {
        self->watching_ = false;
        if (error || self->state_ != State::kHandling) return;
        char byte;
        const ssize_t n = ::recv(self->stream_.plain().socket().native_handle(), &byte, 1,
                                 MSG_PEEK | MSG_DONTWAIT);
        if (n > 0) return self->WatchForHangUp();
        // The event may be that of bytes which have been read since.
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return self->WatchForDisconnect();
        self->CancelExchange();
      });
}

// Bytes wait to be read, a pipelined request's or the farewell of TLS: the socket stays readable,
// and only the kernel knows whether the client's end is behind them.
void HttpConnection::WatchForHangUp() {
  pollfd hang_up{.fd = stream_.plain().socket().native_handle(), .events = POLLRDHUP, .revents = 0};
  if (::poll(&hang_up, 1, 0) > 0) return CancelExchange();
  watching_ = true;
  auto timer = std::make_shared<asio::steady_timer>(stream_.get_executor(), kHangUpInterval);
  timer->async_wait([timer, weak = weak_from_this()](Error) {
    const auto self = weak.lock();
    if (!self) return;
    self->watching_ = false;
    if (self->state_ == State::kHandling) self->WatchForDisconnect();
  });
}

void HttpConnection::CancelExchange() {
  if (const auto exchange = exchange_.lock()) {
    exchange->cancelled_.store(true, std::memory_order_relaxed);
  }
}

void HttpConnection::Send(std::function<HttpResponse()> make) {
  asio::dispatch(stream_.get_executor(), [self = shared_from_this(), make = std::move(make)] {
    if (self->state_ != State::kHandling) return;  // closed meanwhile
    try {
      HttpResponse response = make();
      if (!self->HoldAnswer(response)) response = self->OwnOverload(kNoAnswerRoom);
      self->Write(std::move(response));
    } catch (const std::bad_alloc&) {
      self->WriteWithoutMemory();
    }
  });
}

void HttpConnection::WriteWithoutMemory() {
  try {
    Write(OwnOverload("no memory for the answer"));
  } catch (const std::bad_alloc&) {
    Shut();
  }
}

// Shut would need the strand, and the strand memory. Whoever watches the socket then finds it
// closed, and is the last to hold the connection.
void HttpConnection::HangUp() {
  SIGLIP_LOG_ERROR("connection dropped reason=\"no memory for the answer\"");
  ::shutdown(stream_.plain().socket().native_handle(), SHUT_RDWR);
}

bool HttpConnection::HoldAnswer(const HttpResponse& response) {
  return settings_.answer_budget == nullptr ||
         settings_.answer_budget->TryGrow(answer_hold_,
                                          static_cast<std::int64_t>(response.body.size()));
}

void HttpConnection::Write(HttpResponse response) {
  state_ = State::kWriting;
  if (draining_) keep_alive_ = false;
  response_ = std::move(response);
  std::size_t length = response_.body.size();
  for (const auto& block : response_.blocks) length += block.size();
  const auto reason = http::obsolete_reason(static_cast<http::status>(response_.status));
  response_head_ = Concat("HTTP/1.1 ", response_.status, " ", View(reason), "\r\n");
  if (!response_.content_type.empty()) {
    AppendAll(response_head_, "Content-Type: ", response_.content_type, "\r\n");
  }
  for (const auto& [name, value] : response_.headers) {
    AppendAll(response_head_, name, ": ", value, "\r\n");
  }
  if (response_.overloaded) {
    AppendAll(response_head_, "Retry-After: ", kRetryAfterSeconds, "\r\n");
  }
  AppendAll(response_head_, "Content-Length: ", length, "\r\n");
  // What is not the version's own way is said.
  if (!keep_alive_) {
    response_head_ += "Connection: close\r\n";
  } else if (is_http10_) {
    response_head_ += "Connection: keep-alive\r\n";
  }
  response_head_ += "\r\n";
  unwritten_ = {asio::buffer(response_head_)};
  if (!is_head_method_) {
    unwritten_.push_back(asio::buffer(response_.body));
    for (const auto& block : response_.blocks) unwritten_.emplace_back(block.data(), block.size());
  }
  write_start_ = std::chrono::steady_clock::now();
  bytes_written_ = 0;
  WritePiece();
}

// As ReadPiece: how much there is to read buys a client that does not read it no time.
void HttpConnection::WritePiece() {
  std::vector<asio::const_buffer> piece;
  std::size_t room = kPieceBytes;
  while (room != 0 && !unwritten_.empty()) {
    asio::const_buffer& next = unwritten_.front();
    piece.push_back(asio::buffer(next, room));
    room -= piece.back().size();
    next += piece.back().size();
    if (next.size() == 0) unwritten_.pop_front();
  }
  bytes_written_ += kPieceBytes - room;
  stream_.plain().expires_at(write_start_ + TransferTimeout(bytes_written_));
  asio::async_write(stream_, piece, [self = shared_from_this()](Error error, std::size_t) {
    self->OnPieceWritten(error);
  });
}

void HttpConnection::OnPieceWritten(Error error) {
  try {
    if (!error && state_ != State::kClosing && !unwritten_.empty()) return WritePiece();
    OnWritten(error);
  } catch (const std::bad_alloc&) {
    // WatchForDisconnect's operation would keep the connection, and its client wait, for ever.
    Shut();
  }
}

void HttpConnection::OnWritten(Error error) {
  if (response_.overloaded && settings_.refusals != nullptr) {
    settings_.refusals->Record(SteadyNowNs() - request_end_ns_);
  }
  unwritten_.clear();
  response_ = {};
  answer_hold_ = Budget::Hold();
  if (error || state_ == State::kClosing) return Shut();
  if (!keep_alive_) {
    state_ = State::kClosing;
    stream_.plain().expires_after(settings_.linger_timeout);
    return EndWriting();
  }
  stream_.plain().expires_after(settings_.idle_timeout);
  WaitForRequest();
}

void HttpConnection::EndWriting() {
  if (stream_.is_tls()) {
    // Waits for the peer's farewell too, within the time-out.
    stream_.AsyncFarewell([self = shared_from_this()](Error) { self->Shut(); });
    return;
  }
  Error ignored;
  stream_.plain().socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  Linger();
}

// Closing with unread bytes makes the kernel send a reset, which can overtake the answer.
void HttpConnection::Linger() {
  buffer_.clear();
  stream_.async_read_some(buffer_.prepare(kReadBytes),
                          [self = shared_from_this()](Error error, std::size_t) {
                            if (error) return self->Shut();
                            self->Linger();
                          });
}

void HttpConnection::Refuse(int status, std::string_view text) { Refuse(OwnRefusal(status, text)); }

void HttpConnection::Refuse(HttpResponse response) {
  keep_alive_ = false;
  body_.reset();
  body_hold_ = Budget::Hold();
  request_end_ns_ = SteadyNowNs();  // of what is read of it
  Write(std::move(response));
}

HttpResponse HttpConnection::OwnRefusal(int status, std::string_view text) const {
  return handler_.Refusal(target_, status, text);
}

HttpResponse HttpConnection::OwnOverload(std::string_view text) const {
  HttpResponse response = OwnRefusal(503, text);
  response.overloaded = true;
  return response;
}

HttpResponse HttpHandler::Refusal(std::string_view, int status, std::string_view text) const {
  return ErrorResponse(status, text);
}

std::size_t HttpHandler::BodyLimit(std::string_view) const {
  return std::numeric_limits<std::size_t>::max();
}

HttpResponse ErrorResponse(int status, std::string_view text) {
  HttpResponse response;
  response.status = status;
  response.content_type = "application/json";
  response.body = ErrorBody(text);
  return response;
}

HttpResponse OverloadResponse(std::string_view text) {
  HttpResponse response = ErrorResponse(503, text);
  response.overloaded = true;
  return response;
}

}  // namespace siglip
