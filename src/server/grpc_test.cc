#include "server/grpc.h"

#include <functional>
#include <future>
#include <memory>
#include <new>
#include <numeric>
#include <thread>

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "server/fake_service.h"
#include "server/raw_client_for_test.h"

#include "grpc_service.grpc.pb.h"
#include "health.grpc.pb.h"

namespace siglip {
namespace {

using inference::GRPCInferenceService;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

// HTTP/2 by hand (RFC 9113; HPACK's literals without indexing), for calls that no library sends.
std::string Frame(int kind, int flags, int stream, std::string_view payload) {
  std::string frame;
  for (const int shift : {16, 8, 0}) frame += static_cast<char>(payload.size() >> shift & 0xff);
  frame += static_cast<char>(kind);
  frame += static_cast<char>(flags);
  for (const int shift : {24, 16, 8, 0}) frame += static_cast<char>(stream >> shift & 0xff);
  return frame.append(payload);
}

constexpr int kData = 0, kHeaders = 1, kReset = 3, kSettings = 4, kPing = 6;
constexpr int kEndStream = 1, kAck = 1, kEndHeaders = 4;

std::string CallHead(int stream, std::string_view path) {
  const std::pair<std::string_view, std::string_view> fields[] = {
      {":method", "POST"}, {":scheme", "http"}, {":path", path},
      {":authority", "x"}, {"te", "trailers"},  {"content-type", "application/grpc"}};
  std::string block;
  for (const auto& [name, value] : fields) {
    block += '\0';
    for (const std::string_view text : {name, value}) {
      block += static_cast<char>(text.size());
      block += text;
    }
  }
  return Frame(kHeaders, kEndHeaders, stream, block);
}

std::string Message(std::string_view bytes) {
  std::string message(1, '\0');
  for (const int shift : {24, 16, 8, 0}) message += static_cast<char>(bytes.size() >> shift & 0xff);
  return message.append(bytes);
}

// A connection with all frames so far taken in by the server.
void OpenWith(RawClient& client, std::string_view frames, std::string_view settings = "") {
  client.Send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + Frame(kSettings, 0, 0, settings) +
              std::string(frames) + Frame(kPing, 0, 0, "12345678"));
  ASSERT_TRUE(client.Await(Frame(kPing, kAck, 0, "12345678")));
}

// Its streams take no byte of an answer.
constexpr std::string_view kNoWindow("\0\4\0\0\0\0", 6);

constexpr std::string_view kUnaryPath = "/inference.GRPCInferenceService/ModelInfer";

ServerOptions SmallMessages() {
  ServerOptions options;
  options.grpc_max_input_bytes = 1 << 20;
  return options;
}

class GrpcTest : public ::testing::Test {
 protected:
  explicit GrpcTest(ServerOptions options = SmallMessages()) {
    options.grpc_address = "127.0.0.1";
    options.grpc_port = 0;
    auto started = GrpcServer::Start(service_, state_, options);
    if (!started.ok()) return;
    server_ = *std::move(started);
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ = grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()),
                                         grpc::InsecureChannelCredentials(), arguments);
    stub_ = GRPCInferenceService::NewStub(channel_);
  }

  static inference::ModelInferRequest Request(const std::string& id = "", std::size_t bytes = 8) {
    inference::ModelInferRequest request;
    request.set_model_name("echo");
    request.set_id(id);
    auto& input = *request.add_inputs();
    input.set_name("X");
    input.set_datatype("FP32");
    input.add_shape(static_cast<std::int64_t>(bytes / 4));
    request.add_raw_input_contents(std::string(bytes, 'q'));
    (*request.mutable_parameters())["triton_enable_empty_final_response"].set_bool_param(false);
    return request;
  }

  FakeService service_;
  DoorState state_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<GRPCInferenceService::Stub> stub_;
};

TEST_F(GrpcTest, UnaryInferEchoes) {
  grpc::ClientContext context;
  inference::ModelInferResponse response;
  const grpc::Status status = stub_->ModelInfer(&context, Request("7"), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.id(), "7");
  EXPECT_EQ(response.model_version(), "1");
  ASSERT_EQ(response.raw_output_contents_size(), 1);
  EXPECT_EQ(response.raw_output_contents(0), std::string(8, 'q'));
}

TEST_F(GrpcTest, RefusalsCarryCodeAndText) {
  inference::ModelInferResponse response;
  inference::ModelInferRequest request = Request();
  request.set_model_name("nope");
  grpc::ClientContext unknown;
  EXPECT_EQ(stub_->ModelInfer(&unknown, request, &response).error_code(),
            grpc::StatusCode::NOT_FOUND);
  request.mutable_inputs(0)->set_datatype("FP31");
  grpc::ClientContext unknown_first;
  EXPECT_EQ(stub_->ModelInfer(&unknown_first, request, &response).error_code(),
            grpc::StatusCode::NOT_FOUND);
  request.set_model_name("echo");
  grpc::ClientContext bad;
  const grpc::Status status = stub_->ModelInfer(&bad, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("unknown datatype 'FP31'"));
  grpc::ClientContext large;
  EXPECT_EQ(stub_->ModelInfer(&large, Request("", 2 << 20), &response).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

// Field 1, the model's name, with bytes that are no UTF-8: a line of libprotobuf's for each would
// let clients fill the log.
TEST_F(GrpcTest, BrokenMessagesAreRefusedWithoutAWordOnStderr) {
  const grpc::Slice name("\x0a\x02\xff\xfe");
  const grpc::ByteBuffer message(&name, 1);
  grpc::ByteBuffer answer;
  grpc::GenericStub generic(channel_);
  testing::internal::CaptureStderr();
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    std::promise<grpc::Status> done;
    generic.UnaryCall(&context, "/inference.GRPCInferenceService/ModelInfer", {}, &message, &answer,
                      [&done](grpc::Status status) { done.set_value(std::move(status)); });
    EXPECT_FALSE(done.get_future().get().ok());
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

// Two bytes that become an object of 200, and again and again.
std::string ManyOf(std::string_view field, std::size_t count) {
  std::string bytes;
  for (std::size_t i = 0; i < count; ++i) bytes += field;
  return bytes;
}

constexpr std::string_view kEmptyInput("\x2a\x00", 2);
constexpr std::string_view kUnknownField("\x7a\x00", 2);

TEST_F(GrpcTest, EveryCallRefusesAMessageThatWouldGrow) {
  grpc::GenericStub generic(channel_);
  const auto* pool = google::protobuf::DescriptorPool::generated_pool();
  for (const char* name :
       {GRPCInferenceService::service_full_name(), grpc::health::v1::Health::service_full_name()}) {
    const auto* service = pool->FindServiceByName(name);
    ASSERT_NE(service, nullptr);
    for (int i = 0; i < service->method_count(); ++i) {
      const auto* method = service->method(i);
      if (method->client_streaming() || method->server_streaming()) continue;
      SCOPED_TRACE(method->full_name());
      const bool infer = method->name() == "ModelInfer";
      const grpc::Slice slice(ManyOf(infer ? kEmptyInput : kUnknownField, 100'000));
      const grpc::ByteBuffer message(&slice, 1);
      grpc::ByteBuffer answer;
      grpc::ClientContext context;
      std::promise<grpc::Status> done;
      generic.UnaryCall(&context, "/" + service->full_name() + "/" + method->name(), {}, &message,
                        &answer, [&done](grpc::Status status) { done.set_value(status); });
      const grpc::Status status = done.get_future().get();
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
      EXPECT_THAT(status.error_message(), HasSubstr("more than 65536 fields"));
    }
  }
  const auto health = grpc::health::v1::Health::NewStub(channel_);
  grpc::health::v1::HealthCheckRequest large;
  large.set_service(std::string(1 << 20, 's'));
  grpc::ClientContext context;
  EXPECT_EQ(health->Watch(&context, large)->Finish().error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(GrpcTest, NumbersOfATypedTensorCountAsWhatTheyBecome) {
  inference::ModelInferRequest request = Request();
  request.clear_raw_input_contents();
  request.mutable_inputs(0)->set_datatype("INT64");
  request.mutable_inputs(0)->set_shape(0, 200'000);
  for (int i = 0; i < 200'000; ++i)
    request.mutable_inputs(0)->mutable_contents()->add_int64_contents(1);
  ASSERT_LT(request.ByteSizeLong(), 250'000);
  inference::ModelInferResponse response;
  grpc::ClientContext context;
  const grpc::Status status = stub_->ModelInfer(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("'int64_contents' take more than 1048576 bytes"));
}

TEST_F(GrpcTest, AStreamAnswersAMessageThatWouldGrowAndGoesOn) {
  grpc::ClientContext context;
  const auto stream = stub_->ModelStreamInfer(&context);
  inference::ModelInferRequest request = Request();
  for (int i = 0; i < 100'000; ++i) request.add_outputs();
  inference::ModelStreamInferResponse response;
  ASSERT_TRUE(stream->Write(request));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(response.error_message(), HasSubstr("more than 65536 fields"));
  ASSERT_TRUE(stream->Write(Request("next")));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.infer_response().id(), "next");
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

// A refusal says who may not, whatever the message is.
TEST_F(GrpcTest, AMessageIsNotLookedAtBeforeItsCallMayBe) {
  ServerOptions options;
  options.grpc_restricted_protocols = {"inference,metadata:secret=open"};
  ASSERT_TRUE(state_.Configure(options).ok());
  inference::ModelInferRequest request;
  for (int i = 0; i < 100'000; ++i) request.add_inputs();
  inference::ModelInferResponse response;
  grpc::ClientContext context;
  EXPECT_EQ(stub_->ModelInfer(&context, request, &response).error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GrpcTest, DeadlinesAndCancellationReachTheRequest) {
  service_.hold = true;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + milliseconds(300));
  inference::ModelInferResponse response;
  EXPECT_EQ(stub_->ModelInfer(&context, Request(), &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  service_.AwaitHeld(1);
  auto request = service_.Take(0);
  // The server counts the time left from when the call came in, so its deadline is a moment later.
  const auto over = [&] {
    return request->is_cancelled() && request->client_end_ns <= SteadyNowNs();
  };
  for (int i = 0; i < 1000 && !over(); ++i) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_TRUE(request->is_cancelled());
  EXPECT_GT(request->client_end_ns, 0);
  EXPECT_LE(request->client_end_ns, SteadyNowNs());
  service_.Finish(std::move(request));
}

TEST_F(GrpcTest, WithoutADeadlineTheClientWaitsForEver) {
  service_.hold = true;
  std::thread client([&] {
    grpc::ClientContext context;
    inference::ModelInferResponse response;
    EXPECT_TRUE(stub_->ModelInfer(&context, Request(), &response).ok());
  });
  service_.AwaitHeld(1);
  auto request = service_.Take(0);
  EXPECT_EQ(request->client_end_ns, 0);
  service_.Finish(std::move(request));
  client.join();
}

TEST_F(GrpcTest, ADroppedRequestIsInternal) {
  service_.hold = true;
  std::thread client([&] {
    grpc::ClientContext context;
    inference::ModelInferResponse response;
    EXPECT_EQ(stub_->ModelInfer(&context, Request(), &response).error_code(),
              grpc::StatusCode::INTERNAL);
  });
  service_.AwaitHeld(1);
  service_.Take(0).reset();
  client.join();
}

TEST_F(GrpcTest, StreamsAnswerInRequestOrder) {
  service_.hold = true;
  grpc::ClientContext context;
  const auto stream = stub_->ModelStreamInfer(&context);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(stream->Write(Request(std::to_string(i))));
  inference::ModelInferRequest bad = Request("bad");
  bad.mutable_inputs(0)->set_datatype("x");
  ASSERT_TRUE(stream->Write(bad));
  stream->WritesDone();
  service_.AwaitHeld(3);
  for (int i = 2; i >= 0; --i) service_.Finish(service_.Take(static_cast<std::size_t>(i)));
  inference::ModelStreamInferResponse response;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.error_message(), "");
    EXPECT_EQ(response.infer_response().id(), std::to_string(i));
  }
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(response.error_message(), HasSubstr("unknown datatype"));
  EXPECT_EQ(response.infer_response().id(), "bad");
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

// As Triton: whatever the client says of empty answers, which only models of many answers give.
TEST_F(GrpcTest, StreamsMarkWhatAModelAnswersAsFinal) {
  grpc::ClientContext context;
  const auto stream = stub_->ModelStreamInfer(&context);
  inference::ModelStreamInferResponse response;
  for (int i = 0; i < 300; ++i) {  // more than may be under way at once
    inference::ModelInferRequest request = Request();
    if (i % 3 == 0) request.clear_parameters();
    if (i % 3 == 1) {
      (*request.mutable_parameters())["triton_enable_empty_final_response"].set_bool_param(true);
    }
    ASSERT_TRUE(stream->Write(request));
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_TRUE(response.infer_response().parameters().at("triton_final_response").bool_param());
  }
  inference::ModelInferRequest broken = Request("broken");
  for (const char* version : {"", "1"}) {
    broken.set_model_version(version);
    ASSERT_TRUE(stream->Write(broken));
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.error_message(), "it broke");
    EXPECT_EQ(response.infer_response().id(), "broken");
    EXPECT_EQ(response.infer_response().model_name(), "echo");
    EXPECT_EQ(response.infer_response().model_version(), version);
    EXPECT_TRUE(response.infer_response().parameters().at("triton_final_response").bool_param());
  }
  inference::ModelInferRequest refused = Request("nope");
  refused.set_model_name("nope");
  for (const std::string_view why : {"unknown model", "unknown datatype"}) {
    ASSERT_TRUE(stream->Write(refused));
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_THAT(response.error_message(), HasSubstr(std::string(why)));
    EXPECT_EQ(response.infer_response().id(), "nope");
    EXPECT_EQ(response.infer_response().model_name(), "");
    EXPECT_TRUE(response.infer_response().parameters().empty());
    refused.set_model_name("echo");
    refused.mutable_inputs(0)->set_datatype("x");
  }
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(GrpcTest, AModelsErrorEndsAStreamThatWantsGrpcErrors) {
  service_.hold = true;
  grpc::ClientContext context;
  context.AddMetadata("triton_grpc_error", "true");
  const auto stream = stub_->ModelStreamInfer(&context);
  inference::ModelInferRequest refused = Request("refused");
  refused.mutable_inputs(0)->set_datatype("x");
  for (const auto& request : {refused, Request("good"), Request("broken"), Request("late")}) {
    ASSERT_TRUE(stream->Write(request));
  }
  service_.AwaitHeld(3);
  const auto late = service_.Take(2);
  service_.Finish(service_.Take(1));
  service_.Finish(service_.Take(0));
  inference::ModelStreamInferResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(response.error_message(), HasSubstr("unknown datatype")) << "stays in band";
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.infer_response().id(), "good") << "what came before is answered";
  EXPECT_FALSE(stream->Read(&response));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(status.error_message(), "it broke");
  EXPECT_TRUE(late->is_cancelled());
}

TEST_F(GrpcTest, ACancelledStreamLetsItsRequestsGo) {
  service_.hold = true;
  {
    grpc::ClientContext context;
    const auto stream = stub_->ModelStreamInfer(&context);
    stream->Write(Request());
    service_.AwaitHeld(1);
    context.TryCancel();
    stream->Finish();
  }
  auto request = service_.Take(0);
  for (int i = 0; i < 1000 && !request->is_cancelled(); ++i)
    std::this_thread::sleep_for(milliseconds(5));
  EXPECT_TRUE(request->is_cancelled());
  service_.Finish(std::move(request));
}

TEST_F(GrpcTest, OtherCallsAnswer) {
  inference::ServerMetadataResponse metadata;
  grpc::ClientContext c1;
  ASSERT_TRUE(stub_->ServerMetadata(&c1, {}, &metadata).ok());
  EXPECT_EQ(metadata.extensions(0), "statistics");
  inference::ModelConfigRequest config_request;
  config_request.set_name("echo");
  inference::ModelConfigResponse config;
  grpc::ClientContext c2;
  ASSERT_TRUE(stub_->ModelConfig(&c2, config_request, &config).ok());
  EXPECT_EQ(config.config().max_batch_size(), 8);
  inference::ModelReadyRequest ready_request;
  for (const char* name : {"loading", "nope"}) {
    ready_request.set_name(name);
    inference::ModelReadyResponse ready;
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->ModelReady(&context, ready_request, &ready).ok()) << name;
    EXPECT_FALSE(ready.ready()) << name;
  }
  inference::ModelStatisticsResponse statistics;
  grpc::ClientContext c4;
  ASSERT_TRUE(stub_->ModelStatistics(&c4, {}, &statistics).ok());
  EXPECT_EQ(statistics.model_stats(0).name(), "echo");
  inference::RepositoryIndexResponse index;
  grpc::ClientContext c5;
  ASSERT_TRUE(stub_->RepositoryIndex(&c5, {}, &index).ok());
  EXPECT_EQ(index.models_size(), 2);
  inference::RepositoryModelLoadResponse load;
  grpc::ClientContext c6;
  inference::RepositoryModelLoadRequest load_request;
  load_request.set_model_name("echo");
  EXPECT_EQ(stub_->RepositoryModelLoad(&c6, load_request, &load).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  inference::SystemSharedMemoryRegisterResponse shm;
  grpc::ClientContext c7;
  EXPECT_EQ(stub_->SystemSharedMemoryRegister(&c7, {}, &shm).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  inference::CudaSharedMemoryUnregisterResponse unregistered;
  grpc::ClientContext c8;
  EXPECT_TRUE(stub_->CudaSharedMemoryUnregister(&c8, {}, &unregistered).ok());
  inference::TraceSettingResponse trace;
  grpc::ClientContext c9;
  ASSERT_TRUE(stub_->TraceSetting(&c9, {}, &trace).ok());
  EXPECT_EQ(trace.settings().at("trace_level").value(0), "OFF");
  inference::ModelMetadataRequest unknown;
  unknown.set_name("nope");
  inference::ModelMetadataResponse model;
  grpc::ClientContext c10;
  EXPECT_EQ(stub_->ModelMetadata(&c10, unknown, &model).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(GrpcTest, HealthFollowsReadiness) {
  const auto health = grpc::health::v1::Health::NewStub(channel_);
  grpc::health::v1::HealthCheckResponse response;
  grpc::ClientContext first;
  ASSERT_TRUE(health->Check(&first, {}, &response).ok());
  EXPECT_EQ(response.status(), grpc::health::v1::HealthCheckResponse::SERVING);
  state_.leaving = true;
  grpc::ClientContext second;
  ASSERT_TRUE(health->Check(&second, {}, &response).ok());
  EXPECT_EQ(response.status(), grpc::health::v1::HealthCheckResponse::NOT_SERVING);
}

TEST_F(GrpcTest, WatchTellsOfChangesAndEndsWithTheDrain) {
  using grpc::health::v1::HealthCheckResponse;
  const auto health = grpc::health::v1::Health::NewStub(channel_);
  grpc::ClientContext context;
  const auto stream = health->Watch(&context, {});
  HealthCheckResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  service_.ready = false;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  service_.ready = true;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  server_->BeginDrain();
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(GrpcTest, AWatcherThatGoesIsForgotten) {
  const auto health = grpc::health::v1::Health::NewStub(channel_);
  grpc::ClientContext context;
  const auto stream = health->Watch(&context, {});
  grpc::health::v1::HealthCheckResponse response;
  ASSERT_TRUE(stream->Read(&response));
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(GrpcTest, RestrictedPartsNeedTheirHeader) {
  ServerOptions options;
  options.grpc_restricted_protocols = {"inference,health:secret=open"};
  options.grpc_header_forward_pattern = "^x-";
  ASSERT_TRUE(state_.Configure(options).ok());
  inference::ModelInferResponse response;
  grpc::ClientContext none;
  const grpc::Status refused = stub_->ModelInfer(&none, Request(), &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(refused.error_message(),
            "This protocol is restricted, expecting header 'triton-grpc-protocol-secret'");
  grpc::ClientContext stream_context;
  const auto stream = stub_->ModelStreamInfer(&stream_context);
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  inference::ServerMetadataResponse metadata;
  grpc::ClientContext open;
  EXPECT_TRUE(stub_->ServerMetadata(&open, {}, &metadata).ok());
  service_.hold = true;
  std::thread client([&] {
    grpc::ClientContext context;
    context.AddMetadata("triton-grpc-protocol-secret", "open");
    context.AddMetadata("x-user", "7");
    EXPECT_TRUE(stub_->ModelInfer(&context, Request(), &response).ok());
  });
  service_.AwaitHeld(1);
  auto request = service_.Take(0);
  EXPECT_EQ(std::get<std::string>(request->parameters.at("x-user")), "7");
  service_.Finish(std::move(request));
  client.join();
}

TEST_F(GrpcTest, ModelsAreLoadedAndSettingsChanged) {
  service_.explicit_mode = true;
  inference::RepositoryModelLoadRequest load;
  inference::RepositoryModelLoadResponse loaded;
  load.set_model_name("echo");
  grpc::ClientContext c1;
  EXPECT_TRUE(stub_->RepositoryModelLoad(&c1, load, &loaded).ok());
  load.set_model_name("nope");
  grpc::ClientContext c2;
  EXPECT_EQ(stub_->RepositoryModelLoad(&c2, load, &loaded).error_code(),
            grpc::StatusCode::INTERNAL);
  inference::RepositoryModelUnloadRequest unload;
  inference::RepositoryModelUnloadResponse unloaded;
  unload.set_model_name("echo");
  grpc::ClientContext c3;
  EXPECT_TRUE(stub_->RepositoryModelUnload(&c3, unload, &unloaded).ok());
  inference::TraceSettingRequest trace;
  inference::TraceSettingResponse traced;
  (*trace.mutable_settings())["trace_rate"].add_value("9");
  grpc::ClientContext c4;
  ASSERT_TRUE(stub_->TraceSetting(&c4, trace, &traced).ok());
  EXPECT_EQ(traced.settings().at("trace_rate").value(0), "9");
  inference::LogSettingsRequest log;
  inference::LogSettingsResponse logged;
  (*log.mutable_settings())["log_info"].set_string_param("yes");
  grpc::ClientContext c5;
  EXPECT_EQ(stub_->LogSettings(&c5, log, &logged).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

// As where memory runs out on the way.
class DroppingService final : public FakeService {
  void LoadModel(LoadModelRequest, std::function<void(absl::Status)> done) override {
    done = nullptr;
  }
  void UnloadModel(const std::string&, bool, std::function<void(absl::Status)>) override {
    throw std::bad_alloc();
  }
};

TEST(GrpcControlTest, ALoadAndAnUnloadThatAreDroppedAreAnswered) {
  DroppingService service;
  DoorState state;
  ServerOptions options;
  options.grpc_address = "127.0.0.1";
  options.grpc_port = 0;
  const auto server = GrpcServer::Start(service, state, options);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto stub = GRPCInferenceService::NewStub(grpc::CreateChannel(
      "127.0.0.1:" + std::to_string((*server)->port()), grpc::InsecureChannelCredentials()));
  const auto deadline = std::chrono::system_clock::now() + std::chrono::seconds(10);
  grpc::ClientContext c1, c2;
  c1.set_deadline(deadline);
  c2.set_deadline(deadline);
  inference::RepositoryModelLoadRequest load;
  load.set_model_name("echo");
  inference::RepositoryModelLoadResponse loaded;
  EXPECT_EQ(stub->RepositoryModelLoad(&c1, load, &loaded).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  inference::RepositoryModelUnloadRequest unload;
  unload.set_model_name("echo");
  inference::RepositoryModelUnloadResponse unloaded;
  EXPECT_EQ(stub->RepositoryModelUnload(&c2, unload, &unloaded).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  (*server)->BeginDrain();
  EXPECT_TRUE((*server)->WaitDrained(std::chrono::steady_clock::now() + milliseconds(5000)));
}

ServerOptions LargeMessages() {
  ServerOptions options;
  options.grpc_max_input_bytes = 4 << 20;
  return options;
}

class GrpcLargeMessagesTest : public GrpcTest {
 protected:
  GrpcLargeMessagesTest() : GrpcTest(LargeMessages()) {}
};

TEST_F(GrpcLargeMessagesTest, ALoadMayBeAsLargeAsTensorsAreAndNothingElse) {
  service_.explicit_mode = true;
  inference::RepositoryModelLoadRequest load;
  inference::RepositoryModelLoadResponse loaded;
  load.set_model_name("echo");
  auto& parameters = *load.mutable_parameters();
  // Read, and then judged by what is in it.
  parameters["config"].set_string_param("{" + std::string(2 << 20, ' ') + "}");
  grpc::ClientContext c1;
  EXPECT_EQ(stub_->RepositoryModelLoad(&c1, load, &loaded).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  parameters["config"].set_string_param("{}");
  grpc::ClientContext c5;
  EXPECT_TRUE(stub_->RepositoryModelLoad(&c5, load, &loaded).ok());
  parameters["file:1/model.bin"].set_bytes_param(std::string(3 << 20, 'x'));
  grpc::ClientContext c2;
  EXPECT_EQ(stub_->RepositoryModelLoad(&c2, load, &loaded).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  // What is too large stays so: UNAVAILABLE would have the client try again.
  parameters["file:1/model.bin"].set_bytes_param(std::string(5 << 20, 'x'));
  grpc::ClientContext c3;
  EXPECT_EQ(stub_->RepositoryModelLoad(&c3, load, &loaded).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  inference::TraceSettingRequest trace;
  inference::TraceSettingResponse traced;
  trace.set_model_name(std::string(2 << 20, 'x'));
  grpc::ClientContext c4;
  const grpc::Status refused = stub_->TraceSetting(&c4, trace, &traced);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("larger than max"));
}

TEST_F(GrpcTest, LongTextsKeepTheirBeginningAndEnd) {
  inference::ModelInferRequest request = Request();
  inference::ModelInferResponse response;
  std::string accents;
  for (int i = 0; i < 10'000; ++i) accents += "\u00e9";
  for (const std::string& name : {std::string(20'000, 'x'), accents, std::string(20'000, '%')}) {
    request.set_model_name("a" + name);
    grpc::ClientContext context;
    const grpc::Status status = stub_->ModelInfer(&context, request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
    const std::string& text = status.error_message();
    EXPECT_THAT(text, ::testing::StartsWith("Request for unknown model: 'a" + name.substr(0, 600)));
    EXPECT_THAT(text, ::testing::EndsWith(name.substr(name.size() - 100) + "' is not found"));
    EXPECT_THAT(text, HasSubstr(" bytes left out] "));
    EXPECT_LT(text.size(), 4200U);
  }
  // A name's bytes that are no UTF-8 are refused as no message.
  request.set_model_name(std::string(2000, 'x'));
  grpc::ClientContext context;
  EXPECT_EQ(stub_->ModelInfer(&context, request, &response).error_message(),
            "Request for unknown model: '" + std::string(2000, 'x') + "' is not found");
}

TEST_F(GrpcTest, ARefusalForLackOfRoomSaysWhenToComeAgainAndIsTimed) {
  service_.full = true;
  grpc::ClientContext context;
  inference::ModelInferResponse response;
  const grpc::Status status = stub_->ModelInfer(&context, Request(), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  const auto& trailers = context.GetServerTrailingMetadata();
  ASSERT_TRUE(trailers.contains("grpc-retry-pushback-ms"));
  EXPECT_EQ(trailers.find("grpc-retry-pushback-ms")->second, "1000");
  const RefusalTimes::Snapshot times = state_.grpc_refusals.Read();
  EXPECT_EQ(std::accumulate(times.counts.begin(), times.counts.end(), std::uint64_t{0}), 1);
  service_.full = false;
  grpc::ClientContext accepted;
  EXPECT_TRUE(stub_->ModelInfer(&accepted, Request(), &response).ok());
  EXPECT_FALSE(accepted.GetServerTrailingMetadata().contains("grpc-retry-pushback-ms"));
}

ServerOptions TightGrpcLimits() {
  ServerOptions options = SmallMessages();
  options.grpc_limits.concurrent_streams = 1;
  options.grpc_limits.handshake_timeout_ms = 200;
  options.grpc_limits.max_connection_idle_ms = 200;
  options.http_max_connections = 3;
  return options;
}

class GrpcLimitsTest : public GrpcTest {
 protected:
  GrpcLimitsTest() : GrpcTest(TightGrpcLimits()) {}
};

TEST_F(GrpcLimitsTest, CallsOverTheLimitOfAConnectionWait) {
  service_.hold = true;
  const auto call = [this] {
    grpc::ClientContext context;
    inference::ModelInferResponse response;
    EXPECT_TRUE(stub_->ModelInfer(&context, Request(), &response).ok());
  };
  std::thread first(call);
  service_.AwaitHeld(1);
  std::thread second(call);
  const auto other = GRPCInferenceService::NewStub(grpc::CreateChannel(
      "127.0.0.1:" + std::to_string(server_->port()), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  inference::ServerLiveResponse live;
  EXPECT_TRUE(other->ServerLive(&context, {}, &live).ok()) << "another connection is not held up";
  EXPECT_EQ(service_.held(), 1);
  service_.Finish(service_.Take(0));
  service_.AwaitHeld(1);
  service_.Finish(service_.Take(0));
  first.join();
  second.join();
}

TEST_F(GrpcLimitsTest, IdleAndSilentConnectionsAreClosed) {
  RawClient silent(server_->port());
  EXPECT_TRUE(silent.EndedByPeer());
  grpc::ClientContext context;
  inference::ServerLiveResponse live;
  ASSERT_TRUE(stub_->ServerLive(&context, {}, &live).ok());
  EXPECT_TRUE(channel_->WaitForStateChange(
      GRPC_CHANNEL_READY, std::chrono::system_clock::now() + std::chrono::seconds(10)));
  grpc::ClientContext again;
  EXPECT_TRUE(stub_->ServerLive(&again, {}, &live).ok()) << "the client connects anew";
}

TEST_F(GrpcLimitsTest, ConnectionsOverTheLimitAreClosed) {
  service_.hold = true;  // a connection with a call stays
  const std::string call =
      CallHead(1, kUnaryPath) + Frame(kData, kEndStream, 1, Message(Request().SerializeAsString()));
  std::vector<std::unique_ptr<RawClient>> clients;
  for (std::size_t i = 1; i <= 3; ++i) {
    clients.push_back(std::make_unique<RawClient>(server_->port()));
    OpenWith(*clients.back(), call);
    service_.AwaitHeld(i);
  }
  EXPECT_TRUE(RawClient(server_->port()).ClosedByPeer());
  clients[1].reset();
  service_.Finish(service_.Take(1));  // with its last call the connection goes
  const auto end = std::chrono::steady_clock::now() + milliseconds(10'000);
  bool taken = false;
  while (!taken && std::chrono::steady_clock::now() < end) {
    taken = RawClient(server_->port()).Await(std::string(1, static_cast<char>(kSettings)));
  }
  EXPECT_TRUE(taken);
  while (service_.held() > 0) service_.Finish(service_.Take(0));
}

ServerOptions ShortAnswerTimeout() {
  ServerOptions options;
  options.grpc_limits.answer_timeout_ms = 200;
  options.grpc_limits.answer_bytes_per_s = 4 << 20;
  return options;
}

class GrpcAnswerTest : public GrpcTest {
 protected:
  GrpcAnswerTest() : GrpcTest(ShortAnswerTimeout()) {}

  static void Await(const std::function<bool()>& done) {
    for (int i = 0; i < 6000 && !done(); ++i) std::this_thread::sleep_for(milliseconds(5));
  }
};

TEST_F(GrpcAnswerTest, AnswersOfManyPiecesAreWhole) {
  inference::ModelInferRequest request = Request("0", 3'000'004);
  for (const std::size_t bytes : {0, 4, 16'384, 16'388, 400'000, 8}) {
    auto& input = *request.add_inputs();
    input = request.inputs(0);
    input.set_name("X" + std::to_string(request.inputs_size()));
    input.set_shape(0, static_cast<std::int64_t>(bytes / 4));
    request.add_raw_input_contents(std::string(bytes, static_cast<char>('a' + bytes % 26)));
  }
  const auto expect_whole = [&request](const inference::ModelInferResponse& response) {
    ASSERT_EQ(response.outputs_size(), request.inputs_size());
    ASSERT_EQ(response.raw_output_contents_size(), request.inputs_size());
    for (int i = 0; i < request.inputs_size(); ++i) {
      EXPECT_TRUE(response.raw_output_contents(i) == request.raw_input_contents(i)) << i;
    }
  };
  grpc::ClientContext unary_context;
  inference::ModelInferResponse unary;
  ASSERT_TRUE(stub_->ModelInfer(&unary_context, request, &unary).ok());
  expect_whole(unary);
  grpc::ClientContext context;
  const auto stream = stub_->ModelStreamInfer(&context);
  inference::ModelStreamInferResponse response;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(stream->Write(request));
    ASSERT_TRUE(stream->Read(&response));
    expect_whole(response.infer_response());
  }
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(GrpcAnswerTest, AnUnreadAnswerHoldsItsMemoryAndIsGivenUp) {
  service_.hold = true;
  grpc::ClientContext context;
  const auto stream = stub_->ModelStreamInfer(&context);
  ASSERT_TRUE(stream->Write(Request("0", 60 << 20)));
  service_.AwaitHeld(1);
  auto request = service_.Take(0);
  const std::weak_ptr<const void> held = request->body;
  service_.Finish(std::move(request));
  EXPECT_FALSE(held.expired()) << "whoever counts the bytes would give them to others";
  Await([&held] { return held.expired(); });
  EXPECT_TRUE(held.expired());
  inference::ModelStreamInferResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

// One that asks for the server's metadata and does not read the answers.
std::unique_ptr<RawClient> AskWithoutReading(std::uint16_t port, int calls) {
  auto client = std::make_unique<RawClient>(port);
  std::string frames;
  for (int i = 0; i < calls; ++i) {
    frames += CallHead(2 * i + 1, "/inference.GRPCInferenceService/ServerMetadata") +
              Frame(kData, kEndStream, 2 * i + 1, Message(""));
  }
  OpenWith(*client, frames, kNoWindow);
  return client;
}

TEST_F(GrpcAnswerTest, AnUnreadAnswerWithoutTensorsIsGivenUp) {
  const auto client = AskWithoutReading(server_->port(), 1);
  EXPECT_TRUE(client->Await(Frame(kReset, 0, 1, "").substr(3)));
}

ServerOptions LittleQuota() {
  ServerOptions options;
  options.grpc_limits.memory_quota_bytes = 16 << 20;
  return options;
}

class GrpcQuotaTest : public GrpcTest {
 protected:
  GrpcQuotaTest() : GrpcTest(LittleQuota()) {}

  grpc::StatusCode Ask() {
    grpc::ClientContext context;
    inference::ServerMetadataResponse metadata;
    return stub_->ServerMetadata(&context, {}, &metadata).error_code();
  }
};

TEST_F(GrpcQuotaTest, UnreadAnswersWithoutTensorsAreBoundedTogether) {
  service_.server_version = std::string(1 << 20, '9');
  auto client = AskWithoutReading(server_->port(), 3);
  EXPECT_EQ(Ask(), grpc::StatusCode::UNAVAILABLE);
  client.reset();
  for (int i = 0; i < 1000 && Ask() != grpc::StatusCode::OK; ++i) {
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_EQ(Ask(), grpc::StatusCode::OK);
}

TEST_F(GrpcTest, DrainEndsIdleStreamsAndFinishesWork) {
  service_.hold = true;
  grpc::ClientContext idle_context;
  const auto idle = stub_->ModelStreamInfer(&idle_context);
  std::thread client([&] {
    grpc::ClientContext context;
    inference::ModelInferResponse response;
    EXPECT_TRUE(stub_->ModelInfer(&context, Request(), &response).ok());
  });
  service_.AwaitHeld(1);
  std::thread worker([&] {
    std::this_thread::sleep_for(milliseconds(100));
    service_.Finish(service_.Take(0));
  });
  server_->BeginDrain();
  EXPECT_TRUE(server_->WaitDrained(std::chrono::steady_clock::now() + milliseconds(8000)));
  EXPECT_EQ(idle->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  client.join();
  worker.join();
}

// As a picture that is being decoded, the work ends some time after its call was cancelled.
TEST_F(GrpcTest, DrainReportsWorkThatDidNotFinish) {
  service_.hold = true;
  std::thread client([&] {
    grpc::ClientContext context;
    inference::ModelInferResponse response;
    EXPECT_FALSE(stub_->ModelInfer(&context, Request(), &response).ok());
  });
  service_.AwaitHeld(1);
  std::thread worker([&, request = service_.Take(0)]() mutable {
    while (!request->is_cancelled()) std::this_thread::sleep_for(milliseconds(5));
    service_.Finish(std::move(request));
  });
  server_->BeginDrain();
  EXPECT_FALSE(server_->WaitDrained(std::chrono::steady_clock::now() + milliseconds(200)));
  client.join();
  worker.join();
}

// What has begun and does not come to its end was never accepted; what was is answered, on the same
// connection too.
TEST_F(GrpcTest, DrainWaitsForAcceptedCallsAndNotForHalfOnes) {
  service_.hold = true;
  const std::string half = Frame(kData, 0, 3, Message(Request().SerializeAsString()).substr(0, 9));
  std::vector<std::unique_ptr<RawClient>> halves;
  for (const std::string_view path :
       {kUnaryPath, std::string_view("/inference.GRPCInferenceService/ModelStreamInfer"),
        std::string_view("/inference.GRPCInferenceService/ServerLive"),
        std::string_view("/inference.GRPCInferenceService/RepositoryModelLoad"),
        std::string_view("/grpc.health.v1.Health/Check"),
        std::string_view("/grpc.health.v1.Health/Watch")}) {
    halves.push_back(std::make_unique<RawClient>(server_->port()));
    OpenWith(*halves.back(), CallHead(3, path) + half);
    halves.push_back(std::make_unique<RawClient>(server_->port()));
    OpenWith(*halves.back(), CallHead(3, path));
  }
  RawClient both(server_->port());
  OpenWith(both, CallHead(1, kUnaryPath) +
                     Frame(kData, kEndStream, 1, Message(Request().SerializeAsString())) +
                     CallHead(3, kUnaryPath) + half);
  service_.AwaitHeld(1);
  std::thread worker([&] {
    std::this_thread::sleep_for(milliseconds(800));  // longer than half calls are waited for
    service_.Finish(service_.Take(0));
  });
  server_->BeginDrain();
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(server_->WaitDrained(begin + milliseconds(20'000)));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(8000));
  worker.join();
  EXPECT_TRUE(both.Await("qqqqqqqq"));
  EXPECT_TRUE(both.EndedByPeer());
  for (const auto& client : halves) EXPECT_TRUE(client->EndedByPeer());
}

TEST(GrpcServer, APortInUseIsNamed) {
  FakeService service;
  DoorState state;
  ServerOptions options;
  options.grpc_address = "127.0.0.1";
  options.grpc_port = 0;
  const auto first = GrpcServer::Start(service, state, options);
  ASSERT_TRUE(first.ok());
  options.grpc_port = (*first)->port();
  const auto second = GrpcServer::Start(service, state, options);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("grpc port " + std::to_string(options.grpc_port)));
}

}  // namespace
}  // namespace siglip
