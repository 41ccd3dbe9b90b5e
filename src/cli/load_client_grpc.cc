#include <chrono>
#include <cstdint>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "cli/load_client.h"
#include "grpc_service.grpc.pb.h"

namespace siglip::cli {
namespace {

class GrpcLoadClient final : public LoadClient {
 public:
  GrpcLoadClient(const std::shared_ptr<grpc::Channel>& channel, const LoadTarget& target)
      : stub_(inference::GRPCInferenceService::NewStub(channel)) {
    request_.set_model_name(target.model_name);
    inference::ModelInferRequest::InferInputTensor* input = request_.add_inputs();
    input->set_name(target.input_name);
    input->set_datatype("BYTES");
    input->add_shape(1);
    input->add_shape(1);
    request_.add_raw_input_contents();
  }

  absl::Status Infer(std::string_view bytes, std::vector<float>* embedding) override {
    // BYTES on the wire: little-endian uint32 length, then the bytes.
    std::string& content = *request_.mutable_raw_input_contents(0);
    const auto length = static_cast<std::uint32_t>(bytes.size());
    content.clear();
    for (int shift = 0; shift < 32; shift += 8)
      content += static_cast<char>(length >> shift & 0xff);
    content.append(bytes);
    grpc::ClientContext context;
    const grpc::Status status = stub_->ModelInfer(&context, request_, &response_);
    if (!status.ok()) {
      return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                          status.error_message());
    }
    if (embedding == nullptr) return absl::OkStatus();
    if (response_.raw_output_contents_size() != 1) {
      return absl::InternalError(absl::StrCat("answer: expected one raw output, got ",
                                              response_.raw_output_contents_size()));
    }
    return ParseEmbedding(response_.raw_output_contents(0), *embedding);
  }

  absl::StatusOr<std::string> Parameter(const std::string& name) override {
    inference::ModelConfigRequest request;
    request.set_name(request_.model_name());
    inference::ModelConfigResponse response;
    grpc::ClientContext context;
    const grpc::Status status = stub_->ModelConfig(&context, request, &response);
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
      return absl::UnavailableError(status.error_message());
    }
    const auto& parameters = response.config().parameters();
    const auto found = parameters.find(name);
    return found == parameters.end() ? "" : found->second.string_value();
  }

 private:
  std::unique_ptr<inference::GRPCInferenceService::Stub> stub_;
  inference::ModelInferRequest request_;
  inference::ModelInferResponse response_;
};

}  // namespace

absl::Status NoGrpc(const LoadTarget& target) {
  return absl::UnavailableError(
      absl::StrCat(target.AddressText(),
                   ": expected a gRPC server without TLS, got no connection; "
                   "an HTTP port needs --protocol http"));
}

absl::StatusOr<std::unique_ptr<LoadClient>> ConnectGrpc(const LoadTarget& target) {
  grpc::ChannelArguments arguments;
  // A connection per client, not one shared by all of the process.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto channel = grpc::CreateCustomChannel(target.AddressText(),
                                                 grpc::InsecureChannelCredentials(), arguments);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + kConnectTimeout)) {
    return NoGrpc(target);
  }
  return std::make_unique<GrpcLoadClient>(channel, target);
}

}  // namespace siglip::cli
