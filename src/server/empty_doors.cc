// What the libraries under the doors cost by themselves: an HTTP door of Beast and a gRPC door of
// grpc++ that read an inference whole and answer a fixed embedding without a look at it.
// bench/doors.py compares the server with it.
//
//   empty_doors DIM      listens on free ports of 127.0.0.1 and says which; ends on SIGTERM

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <grpcpp/grpcpp.h>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

#include "grpc_service.grpc.pb.h"

namespace siglip {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

// As `siglip serve` takes them unless told otherwise: requests larger than this are refused.
constexpr std::size_t kMaxBody = 64 << 20;

// One connection, one request at a time, kept alive.
class EmptyConnection : public std::enable_shared_from_this<EmptyConnection> {
 public:
  EmptyConnection(asio::ip::tcp::socket socket, const std::string& answer)
      : stream_(std::move(socket)) {
    stream_.socket().set_option(asio::ip::tcp::no_delay(true));
    answer_.set(http::field::content_type, "application/octet-stream");
    answer_.set("Inference-Header-Content-Length", "0");
    answer_.body() = answer;
    answer_.prepare_payload();
  }

  void Read() {
    parser_.emplace();
    parser_->body_limit(kMaxBody);
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](const beast::error_code& error, std::size_t) {
                       if (!error) self->Write();
                     });
  }

 private:
  void Write() {
    http::async_write(stream_, answer_,
                      [self = shared_from_this()](const beast::error_code& error, std::size_t) {
                        if (!error) self->Read();
                      });
  }

  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  http::response<http::string_body> answer_{http::status::ok, 11};
};

class EmptyHttpDoor {
 public:
  EmptyHttpDoor(std::size_t threads, std::string answer)
      : answer_(std::move(answer)),
        pool_(threads),
        acceptor_(pool_, {asio::ip::address_v4::loopback(), 0}) {
    Accept();
  }

  int Port() const { return acceptor_.local_endpoint().port(); }

 private:
  void Accept() {
    acceptor_.async_accept(asio::make_strand(pool_),
                           [this](const beast::error_code& error, asio::ip::tcp::socket socket) {
                             if (error) return;
                             std::make_shared<EmptyConnection>(std::move(socket), answer_)->Read();
                             Accept();
                           });
  }

  const std::string answer_;
  asio::thread_pool pool_;
  asio::ip::tcp::acceptor acceptor_;
};

class EmptyGrpcDoor final : public inference::GRPCInferenceService::CallbackService {
 public:
  explicit EmptyGrpcDoor(std::string answer) : answer_(std::move(answer)) {}

  grpc::ServerUnaryReactor* ModelInfer(grpc::CallbackServerContext* context,
                                       const inference::ModelInferRequest* request,
                                       inference::ModelInferResponse* response) override {
    response->set_model_name(request->model_name());
    response->set_model_version("1");
    auto* const output = response->add_outputs();
    output->set_name("EMBEDDING");
    output->set_datatype("FP32");
    output->add_shape(1);
    output->add_shape(static_cast<std::int64_t>(answer_.size() / sizeof(float)));
    response->add_raw_output_contents(answer_);
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  const std::string answer_;
};

int Run(std::size_t dim) {
  const std::string answer(dim * sizeof(float), '\0');
  const EmptyHttpDoor http_door(std::max(1U, std::thread::hardware_concurrency()), answer);
  EmptyGrpcDoor grpc_door(answer);
  int grpc_port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &grpc_port);
  builder.SetMaxReceiveMessageSize(kMaxBody);
  builder.RegisterService(&grpc_door);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) {
    std::fprintf(stderr, "error: no gRPC port\n");
    return 1;
  }
  std::fprintf(stderr, "listening http=127.0.0.1:%d grpc=127.0.0.1:%d\n", http_door.Port(),
               grpc_port);
  server->Wait();
  return 0;
}

}  // namespace
}  // namespace siglip

int main(int argc, char** argv) {
  const int dim = argc == 2 ? std::atoi(argv[1]) : 0;
  if (dim <= 0 || dim > 1 << 20) {
    std::fprintf(stderr, "usage: empty_doors DIM\n");
    return 2;
  }
  return siglip::Run(static_cast<std::size_t>(dim));
}
