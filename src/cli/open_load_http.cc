#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

#include "absl/strings/str_cat.h"
#include "cli/open_load.h"

namespace siglip::cli {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using Error = boost::system::error_code;

class HttpCrowd;

// One connection; sends a request, reads the answer, waits for the next.
class CrowdConnection {
 public:
  CrowdConnection(asio::io_context& context, HttpCrowd& crowd) : crowd_(crowd), socket_(context) {}

  void Send(const tcp::endpoint& endpoint, const std::string& head, const std::string& body);
  bool busy() const { return busy_; }
  void Close() {
    Error ignored;
    socket_.close(ignored);
  }

 private:
  bool HungUp();
  void Write();
  void Read();
  void OnAnswer();
  void Fail(const Error& error);

  HttpCrowd& crowd_;
  tcp::socket socket_;
  boost::beast::flat_buffer buffer_;
  std::optional<http::response_parser<http::string_body>> parser_;
  const std::string* head_ = nullptr;
  const std::string* body_ = nullptr;
  double begin_ = 0;
  bool busy_ = false;
};

class HttpCrowd {
 public:
  HttpCrowd(const OpenLoad& load, std::span<const std::string> contents)
      : load_(load), contents_(contents) {}

  OpenLoadResult Run() {
    const HostPort& address = load_.target.address;
    tcp::resolver resolver(context_);
    endpoint_ = *resolver.resolve(address.host, std::to_string(address.port)).begin();
    for (const std::string& content : contents_) {
      heads_.push_back(absl::StrCat("POST /v2/models/", load_.target.model_name,
                                    "/infer HTTP/1.1\r\nHost: ", load_.target.AddressText(),
                                    "\r\nContent-Type: application/octet-stream\r\n"
                                    "Inference-Header-Content-Length: 0\r\nContent-Length: ",
                                    content.size(), "\r\n\r\n"));
    }
    recorder_.emplace(load_);
    Tick();
    context_.run();
    std::size_t abandoned = 0;
    for (const auto& connection : connections_) abandoned += connection->busy();
    return recorder_->Finish(abandoned);
  }

  void Idle(CrowdConnection* connection) { idle_.push_back(connection); }
  OpenLoadRecorder& recorder() { return *recorder_; }

 private:
  // Sends what is due, then sleeps until something is.
  void Tick() {
    double now = NowSeconds();
    while (!recorder_->over(now) && recorder_->NextDue() <= now) {
      SendOne(now);
      now = NowSeconds();
    }
    if (recorder_->over(now)) {
      for (const auto& connection : connections_) connection->Close();
      context_.stop();
      return;
    }
    timer_.expires_after(std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::duration<double>(recorder_->NextDue() - now)));
    timer_.async_wait([this](Error) { Tick(); });
  }

  void SendOne(double now) {
    const std::size_t index = recorder_->Offer(now) % contents_.size();
    if (idle_.empty()) {
      if (static_cast<int>(connections_.size()) >= load_.connections) {
        recorder_->NoConnection();
        return;
      }
      connections_.push_back(std::make_unique<CrowdConnection>(context_, *this));
      idle_.push_back(connections_.back().get());
    }
    CrowdConnection* connection = idle_.back();
    idle_.pop_back();
    connection->Send(endpoint_, heads_[index], contents_[index]);
  }

  const OpenLoad& load_;
  const std::span<const std::string> contents_;
  asio::io_context context_{1};
  asio::steady_timer timer_{context_};
  tcp::endpoint endpoint_;
  std::vector<std::string> heads_;  // by content
  std::optional<OpenLoadRecorder> recorder_;
  std::vector<std::unique_ptr<CrowdConnection>> connections_;
  std::vector<CrowdConnection*> idle_;
};

void CrowdConnection::Send(const tcp::endpoint& endpoint, const std::string& head,
                           const std::string& body) {
  busy_ = true;
  begin_ = NowSeconds();
  head_ = &head;
  body_ = &body;
  if (socket_.is_open() && !HungUp()) return Write();
  Close();
  socket_.async_connect(endpoint, [this](Error error) {
    if (error) return Fail(error);
    Error ignored;
    socket_.set_option(tcp::no_delay(true), ignored);
    Write();
  });
}

// True if the server has ended a connection that was idle for too long, which clients look for
// before they use it again.
bool CrowdConnection::HungUp() {
  char byte = 0;
  Error error;
  socket_.non_blocking(true, error);
  socket_.receive(asio::buffer(&byte, 1), tcp::socket::message_peek, error);
  return error != asio::error::would_block;
}

void CrowdConnection::Write() {
  const std::array<asio::const_buffer, 2> buffers = {asio::buffer(*head_), asio::buffer(*body_)};
  asio::async_write(socket_, buffers, [this](Error error, std::size_t) {
    if (error) return Fail(error);
    Read();
  });
}

void CrowdConnection::Read() {
  parser_.emplace();
  http::async_read(socket_, buffer_, *parser_, [this](Error error, std::size_t) {
    if (error) return Fail(error);
    OnAnswer();
  });
}

void CrowdConnection::OnAnswer() {
  const auto& response = parser_->get();
  busy_ = false;
  if (response.result() == http::status::ok) {
    crowd_.recorder().Answered(begin_);
  } else if (response.result() == http::status::service_unavailable) {
    crowd_.recorder().Refused(begin_, response.count(http::field::retry_after) == 1);
  } else {
    crowd_.recorder().Failed(absl::UnknownError(
        absl::StrCat("HTTP ", response.result_int(), ": ", response.body().substr(0, 200))));
  }
  if (!response.keep_alive()) Close();
  crowd_.Idle(this);
}

void CrowdConnection::Fail(const Error& error) {
  if (crowd_.recorder().over(NowSeconds())) return;  // hung up by ourselves
  busy_ = false;
  Close();
  buffer_.clear();
  crowd_.recorder().Failed(absl::UnavailableError(error.message()));
  crowd_.Idle(this);
}

}  // namespace

absl::StatusOr<OpenLoadResult> RunOpenHttp(const OpenLoad& load,
                                           std::span<const std::string> contents) {
  try {
    return HttpCrowd(load, contents).Run();
  } catch (const boost::system::system_error& error) {
    return absl::UnavailableError(
        absl::StrCat(load.target.AddressText(), ": ", error.code().message()));
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat(load.target.AddressText(), ": ", error.what()));
  }
}

}  // namespace siglip::cli
