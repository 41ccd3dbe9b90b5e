#include <chrono>
#include <cstdint>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "cli/load_client.h"
#include "grpc_service.grpc.pb.h"

namespace siglip::cli {
namespace {

constexpr std::chrono::seconds kConnectTimeout{10};

class GrpcLoadClient final : public LoadClient {
 public:
  GrpcLoadClient(const std::shared_ptr<grpc::Channel>& channel, const std::string& model_name)
      : stub_(inference::GRPCInferenceService::NewStub(channel)) {
    request_.set_model_name(model_name);
    inference::ModelInferRequest::InferInputTensor* input = request_.add_inputs();
    input->set_name("INPUT_IMAGE");
    input->set_datatype("BYTES");
    input->add_shape(1);
    input->add_shape(1);
    request_.add_raw_input_contents();
  }

  absl::Status Infer(std::string_view image_bytes) override {
    // BYTES on the wire: little-endian uint32 length, then the bytes.
    std::string& content = *request_.mutable_raw_input_contents(0);
    const auto length = static_cast<std::uint32_t>(image_bytes.size());
    content.clear();
    for (int shift = 0; shift < 32; shift += 8)
      content += static_cast<char>(length >> shift & 0xff);
    content.append(image_bytes);
    grpc::ClientContext context;
    const grpc::Status status = stub_->ModelInfer(&context, request_, &response_);
    if (status.ok()) return absl::OkStatus();
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  }

 private:
  std::unique_ptr<inference::GRPCInferenceService::Stub> stub_;
  inference::ModelInferRequest request_;
  inference::ModelInferResponse response_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LoadClient>> ConnectGrpc(const std::string& address,
                                                        const std::string& model_name) {
  grpc::ChannelArguments arguments;
  // A connection per client, not one shared by all of the process.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto channel =
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + kConnectTimeout)) {
    return absl::UnavailableError(absl::StrCat(address, ": no connection"));
  }
  return std::make_unique<GrpcLoadClient>(channel, model_name);
}

}  // namespace siglip::cli
