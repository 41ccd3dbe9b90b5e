#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "cli/open_load.h"
#include "grpc_service.grpc.pb.h"

namespace siglip::cli {
namespace {

// Of gRPC's own retries (gRFC A6): a refusal says with it when to come again.
constexpr char kPushback[] = "grpc-retry-pushback-ms";

using Stub = inference::GRPCInferenceService::Stub;

struct CrowdCall {
  grpc::ClientContext context;
  inference::ModelInferResponse response;
  grpc::Status status;
  std::unique_ptr<grpc::ClientAsyncResponseReader<inference::ModelInferResponse>> reader;
  double begin = 0;
};

// BYTES on the wire: little-endian uint32 length, then the bytes.
inference::ModelInferRequest RequestOf(const LoadTarget& target, const std::string& content) {
  inference::ModelInferRequest request;
  request.set_model_name(target.model_name);
  auto& input = *request.add_inputs();
  input.set_name(target.input_name);
  input.set_datatype("BYTES");
  input.add_shape(1);
  input.add_shape(1);
  std::string& raw = *request.add_raw_input_contents();
  for (int shift = 0; shift < 32; shift += 8) {
    raw += static_cast<char>(static_cast<std::uint32_t>(content.size()) >> shift & 0xff);
  }
  raw += content;
  return request;
}

void Record(const CrowdCall& call, OpenLoadRecorder& recorder) {
  if (call.status.ok()) return recorder.Answered(call.begin);
  const bool says_when = call.context.GetServerTrailingMetadata().contains(kPushback);
  if (call.status.error_code() == grpc::StatusCode::UNAVAILABLE &&
      (says_when || call.status.error_message().find("Exceeds") != std::string::npos)) {
    return recorder.Refused(call.begin, says_when);
  }
  recorder.Failed(absl::UnknownError(absl::StrCat(
      "gRPC ", static_cast<int>(call.status.error_code()), ": ", call.status.error_message())));
}

// Takes one answer, waiting for it until `deadline` at most.
bool TakeAnswer(grpc::CompletionQueue& queue, std::unordered_set<CrowdCall*>& open,
                std::chrono::system_clock::time_point deadline, OpenLoadRecorder* recorder) {
  void* tag = nullptr;
  bool ok = false;
  if (queue.AsyncNext(&tag, &ok, deadline) != grpc::CompletionQueue::GOT_EVENT) return false;
  const std::unique_ptr<CrowdCall> call(static_cast<CrowdCall*>(tag));
  open.erase(call.get());
  if (recorder != nullptr) Record(*call, *recorder);
  return true;
}

absl::StatusOr<std::vector<std::unique_ptr<Stub>>> Connect(const OpenLoad& load) {
  std::vector<std::unique_ptr<Stub>> stubs;
  for (int i = 0; i < load.connections; ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
    const auto channel = grpc::CreateCustomChannel(load.target.AddressText(),
                                                   grpc::InsecureChannelCredentials(), arguments);
    if (!channel->WaitForConnected(std::chrono::system_clock::now() + kConnectTimeout)) {
      return NoGrpc(load.target);
    }
    stubs.push_back(inference::GRPCInferenceService::NewStub(channel));
  }
  return stubs;
}

}  // namespace

absl::StatusOr<OpenLoadResult> RunOpenGrpc(const OpenLoad& load,
                                           std::span<const std::string> contents) {
  auto stubs = Connect(load);
  if (!stubs.ok()) return stubs.status();
  std::vector<inference::ModelInferRequest> requests;
  for (const std::string& content : contents) requests.push_back(RequestOf(load.target, content));
  grpc::CompletionQueue queue;
  std::unordered_set<CrowdCall*> open;
  OpenLoadRecorder recorder(load);
  for (double now = NowSeconds(); !recorder.over(now); now = NowSeconds()) {
    while (!recorder.over(now) && recorder.NextDue() <= now) {
      const std::size_t index = recorder.Offer(now);
      auto call = std::make_unique<CrowdCall>();
      call->begin = now;
      call->reader = (*stubs)[index % stubs->size()]->AsyncModelInfer(
          &call->context, requests[index % requests.size()], &queue);
      call->reader->Finish(&call->response, &call->status, call.get());
      open.insert(call.release());
      now = NowSeconds();
    }
    const double wait = std::min(recorder.NextDue(), recorder.end()) - NowSeconds();
    const auto until = std::chrono::system_clock::now() +
                       std::chrono::duration_cast<std::chrono::system_clock::duration>(
                           std::chrono::duration<double>(std::max(wait, 0.0)));
    while (TakeAnswer(queue, open, until, &recorder) && recorder.NextDue() > NowSeconds()) {
    }
  }
  const std::size_t abandoned = open.size();
  for (CrowdCall* call : open) call->context.TryCancel();
  while (!open.empty()) {
    TakeAnswer(queue, open, std::chrono::system_clock::now() + kConnectTimeout, nullptr);
  }
  queue.Shutdown();
  return recorder.Finish(abandoned);
}

}  // namespace siglip::cli
