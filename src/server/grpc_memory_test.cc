// What the gRPC door does when memory runs out under an answer. In a program of its own, whose
// operator new fails when told.

#include <cstddef>
#include <cstdlib>
#include <new>
#include <thread>

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "base/failing_new_for_test.h"
#include "server/fake_service.h"
#include "server/grpc.h"

#include "grpc_service.grpc.pb.h"

namespace {

constexpr std::size_t kIdBytes = 5000;

// The allocation of this thread, among those of a request's id, that fails, counted from now; 0:
// none. What gRPC itself cannot do without is smaller.
thread_local int failing = 0;

}  // namespace

void* TestAllocate(std::size_t bytes) {
  const bool of_id = bytes > kIdBytes && bytes < 2 * kIdBytes;
  if (of_id && failing > 0 && --failing == 0) return nullptr;
  return std::malloc(bytes == 0 ? 1 : bytes);
}

namespace siglip {
namespace {

using inference::GRPCInferenceService;

class GrpcMemoryTest : public ::testing::Test {
 protected:
  GrpcMemoryTest() {
    ServerOptions options;
    options.grpc_address = "127.0.0.1";
    options.grpc_port = 0;
    server_ = GrpcServer::Start(service_, state_, options).value();
    stub_ = GRPCInferenceService::NewStub(grpc::CreateChannel(
        "127.0.0.1:" + std::to_string(server_->port()), grpc::InsecureChannelCredentials()));
    service_.hold = true;
  }
  // Nothing is left over that the end would wait for.
  ~GrpcMemoryTest() override {
    server_->BeginDrain();
    EXPECT_TRUE(server_->WaitDrained(std::chrono::steady_clock::now() + std::chrono::seconds(20)));
  }

  static inference::ModelInferRequest Request() {
    inference::ModelInferRequest request;
    request.set_model_name("echo");
    request.set_id(std::string(kIdBytes, 'i'));
    auto& input = *request.add_inputs();
    input.set_name("X");
    input.set_datatype("FP32");
    input.add_shape(2);
    request.add_raw_input_contents("12345678");
    return request;
  }

  // Answers what is held while allocation `number` fails. Whether one did.
  bool AnswerWithout(int number) {
    service_.AwaitHeld(1);
    auto request = service_.Take(0);
    failing = number;
    try {
      service_.Finish(std::move(request));
    } catch (const std::bad_alloc&) {  // as the threads of a model do
    }
    const bool failed = failing == 0;
    failing = 0;
    return failed;
  }

  FakeService service_;
  DoorState state_;
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<GRPCInferenceService::Stub> stub_;
};

TEST_F(GrpcMemoryTest, ACallIsAnsweredWithoutMemoryForItsAnswer) {
  int number = 0;
  for (bool failed = true; failed;) {
    SCOPED_TRACE(++number);
    ASSERT_LT(number, 100);
    grpc::Status status;
    std::thread client([&] {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
      inference::ModelInferResponse response;
      status = stub_->ModelInfer(&context, Request(), &response);
    });
    failed = AnswerWithout(number);
    client.join();
    EXPECT_EQ(status.ok(), !failed);
    EXPECT_NE(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  }
  EXPECT_GT(number, 2);
}

TEST_F(GrpcMemoryTest, AStreamEndsWithoutMemoryForAnAnswer) {
  int number = 0;
  for (bool failed = true; failed;) {
    SCOPED_TRACE(++number);
    ASSERT_LT(number, 100);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    const auto stream = stub_->ModelStreamInfer(&context);
    ASSERT_TRUE(stream->Write(Request()));
    failed = AnswerWithout(number);
    inference::ModelStreamInferResponse response;
    const bool answered = stream->Read(&response);
    EXPECT_TRUE(answered || failed);
    stream->WritesDone();
    while (answered && stream->Read(&response)) {
    }
    EXPECT_NE(stream->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  }
  EXPECT_GT(number, 2);
}

}  // namespace
}  // namespace siglip
