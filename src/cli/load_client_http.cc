#include <exception>
#include <utility>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

#include "absl/strings/str_cat.h"
#include "cli/load_client.h"

namespace siglip::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

// The raw form: body = the image file, Inference-Header-Content-Length: 0.
class HttpLoadClient final : public LoadClient {
 public:
  HttpLoadClient(const std::string& host, const std::string& port, std::string target)
      : host_(host), target_(std::move(target)), stream_(context_) {
    asio::ip::tcp::resolver resolver(context_);
    stream_.connect(resolver.resolve(host, port));
    stream_.socket().set_option(asio::ip::tcp::no_delay(true));
  }

  absl::Status Infer(std::string_view image_bytes) override {
    try {
      http::request<http::span_body<const char>> request(http::verb::post, target_, 11);
      request.set(http::field::host, host_);
      request.set(http::field::content_type, "application/octet-stream");
      request.set("Inference-Header-Content-Length", "0");
      request.body() = {image_bytes.data(), image_bytes.size()};
      request.prepare_payload();
      http::write(stream_, request);
      http::response<http::string_body> response;
      http::read(stream_, buffer_, response);
      if (response.result() == http::status::ok) return absl::OkStatus();
      return absl::UnknownError(
          absl::StrCat("HTTP ", response.result_int(), ": ", response.body().substr(0, 200)));
    } catch (const std::exception& error) {
      return absl::UnavailableError(error.what());
    }
  }

 private:
  const std::string host_;
  const std::string target_;
  asio::io_context context_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LoadClient>> ConnectHttp(const std::string& address,
                                                        const std::string& model_name) {
  const std::size_t colon = address.rfind(':');
  if (colon == std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("address ", address, ": expected HOST:PORT"));
  }
  try {
    return std::make_unique<HttpLoadClient>(address.substr(0, colon), address.substr(colon + 1),
                                            absl::StrCat("/v2/models/", model_name, "/infer"));
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat(address, ": ", error.what()));
  }
}

}  // namespace siglip::cli
