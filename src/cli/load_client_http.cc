#include <cstring>
#include <exception>
#include <utility>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "cli/load_client.h"

namespace siglip::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

// The raw form: body = the image file, Inference-Header-Content-Length: 0.
class HttpLoadClient final : public LoadClient {
 public:
  explicit HttpLoadClient(const LoadTarget& target)
      : host_(target.AddressText()),
        model_(absl::StrCat("/v2/models/", target.model_name)),
        stream_(context_) {
    asio::ip::tcp::resolver resolver(context_);
    stream_.connect(resolver.resolve(target.address.host, std::to_string(target.address.port)));
    stream_.socket().set_option(asio::ip::tcp::no_delay(true));
  }

  absl::Status Infer(std::string_view content, std::vector<float>* embedding) override {
    try {
      http::request<http::span_body<const char>> request(http::verb::post, model_ + "/infer", 11);
      request.set(http::field::host, host_);
      request.set(http::field::content_type, "application/octet-stream");
      request.set("Inference-Header-Content-Length", "0");
      request.body() = {content.data(), content.size()};
      request.prepare_payload();
      http::write(stream_, request);
      http::response<http::string_body> response;
      http::read(stream_, buffer_, response);
      if (response.result() != http::status::ok) return Refusal(response);
      return embedding == nullptr ? absl::OkStatus() : ReadTail(response, *embedding);
    } catch (const std::exception& error) {
      return absl::UnavailableError(error.what());
    }
  }

  absl::StatusOr<std::string> Parameter(const std::string& name) override {
    Response response;
    try {
      http::request<http::empty_body> request(http::verb::get, model_ + "/config", 11);
      request.set(http::field::host, host_);
      http::write(stream_, request);
      http::read(stream_, buffer_, response);
    } catch (const std::exception& error) {
      return absl::UnavailableError(error.what());
    }
    const auto config = nlohmann::json::parse(response.body(), nullptr, false);
    const nlohmann::json::json_pointer place("/parameters/" + name + "/string_value");
    const bool told = config.contains(place) && config.at(place).is_string();
    return told ? config.at(place).get<std::string>() : "";
  }

 private:
  using Response = http::response<http::string_body>;

  static absl::Status Refusal(const Response& response) {
    const auto code = response.result() == http::status::service_unavailable
                          ? absl::StatusCode::kUnavailable
                          : absl::StatusCode::kUnknown;
    return absl::Status(
        code, absl::StrCat("HTTP ", response.result_int(), ": ", response.body().substr(0, 200)));
  }

  // The answer's JSON head has the length that the header says; the floats follow it.
  static absl::Status ReadTail(const Response& response, std::vector<float>& embedding) {
    const std::string field(response["Inference-Header-Content-Length"]);
    const auto head = ParseInt<std::uint64_t>(field);
    if (!head || *head > response.body().size()) {
      return absl::InternalError(
          absl::StrCat("answer: expected Inference-Header-Content-Length of at most ",
                       response.body().size(), ", got \"", field, "\""));
    }
    return ParseEmbedding(std::string_view(response.body()).substr(*head), embedding);
  }

  const std::string host_;
  const std::string model_;
  asio::io_context context_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
};

}  // namespace

absl::Status ParseEmbedding(std::string_view bytes, std::vector<float>& embedding) {
  if (bytes.empty() || bytes.size() % sizeof(float) != 0) {
    return absl::InternalError(
        absl::StrCat("answer: expected an embedding of floats, got ", bytes.size(), " bytes"));
  }
  embedding.resize(bytes.size() / sizeof(float));
  std::memcpy(embedding.data(), bytes.data(), bytes.size());
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<LoadClient>> ConnectHttp(const LoadTarget& target) {
  try {
    return std::make_unique<HttpLoadClient>(target);
  } catch (const boost::system::system_error& error) {
    return absl::UnavailableError(absl::StrCat(target.AddressText(), ": ", error.code().message()));
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat(target.AddressText(), ": ", error.what()));
  }
}

}  // namespace siglip::cli
