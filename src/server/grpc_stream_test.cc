// Streams under load: what several threads of gRPC's and of the models' do to one stream at a time.
// Nothing here waits for a moment to come; the numbers are what made the crashes of before likely.

#include <atomic>
#include <deque>
#include <memory>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "base/mutex.h"
#include "server/fake_service.h"
#include "server/grpc.h"

#include "grpc_service.grpc.pb.h"

namespace siglip {
namespace {

using inference::GRPCInferenceService;

// Answers on threads of its own, as models do; what is asked of "nope" at once, on gRPC's.
class AnsweringService final : public FakeService {
 public:
  AnsweringService() {
    for (int i = 0; i < 2; ++i) threads_.emplace_back([this] { Work(); });
  }
  ~AnsweringService() override {
    {
      MutexLock lock(mu_);
      ending_ = true;
    }
    changed_.NotifyAll();
    for (std::thread& thread : threads_) thread.join();
  }

  void Infer(std::unique_ptr<InferRequest> request) override {
    if (request->model_name == "nope") return Finish(std::move(request));
    MutexLock lock(mu_);
    queue_.push_back(std::move(request));
    changed_.NotifyOne();
  }

 private:
  void Work() {
    while (true) {
      std::unique_ptr<InferRequest> next;
      {
        MutexLock lock(mu_);
        while (queue_.empty() && !ending_) changed_.Wait(mu_);
        if (queue_.empty()) return;
        next = std::move(queue_.front());
        queue_.pop_front();
      }
      Finish(std::move(next));
    }
  }

  Mutex mu_;
  CondVar changed_;
  bool ending_ SIGLIP_GUARDED_BY(mu_) = false;
  std::deque<std::unique_ptr<InferRequest>> queue_ SIGLIP_GUARDED_BY(mu_);
  std::vector<std::thread> threads_;
};

class GrpcStreamTest : public ::testing::Test {
 protected:
  GrpcStreamTest() {
    ServerOptions options;
    options.grpc_address = "127.0.0.1";
    options.grpc_port = 0;
    auto started = GrpcServer::Start(service_, state_, options);
    if (started.ok()) server_ = *std::move(started);
  }

  std::unique_ptr<GRPCInferenceService::Stub> Connect() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return GRPCInferenceService::NewStub(
        grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()),
                                  grpc::InsecureChannelCredentials(), arguments));
  }

  static inference::ModelInferRequest Request(const std::string& model, int id) {
    inference::ModelInferRequest request;
    request.set_model_name(model);
    request.set_id(std::to_string(id));
    auto& input = *request.add_inputs();
    input.set_name("X");
    input.set_datatype("FP32");
    input.add_shape(2);
    request.add_raw_input_contents("12345678");
    return request;
  }

  // Sends `count` requests, up to `depth` of them ahead of the answers; returns how many answers
  // came, each of its own request.
  int RunStream(const std::string& model, int count, int depth) const {
    const auto stub = Connect();
    grpc::ClientContext context;
    const auto stream = stub->ModelStreamInfer(&context);
    std::counting_semaphore<> room(depth);
    std::atomic<bool> broken{false};
    std::thread writer([&] {
      for (int i = 0; i < count && !broken; ++i) {
        room.acquire();
        if (!stream->Write(Request(model, i))) return;
      }
      stream->WritesDone();
    });
    int in_order = 0;
    inference::ModelStreamInferResponse response;
    while (stream->Read(&response)) {
      if (response.infer_response().id() == std::to_string(in_order)) ++in_order;
      room.release();
    }
    broken = true;
    room.release(depth);
    writer.join();
    EXPECT_TRUE(stream->Finish().ok());
    return in_order;
  }

  void RunStreams(const std::string& model, int streams, int count) const {
    std::vector<std::thread> clients;
    for (int i = 0; i < streams; ++i) {
      clients.emplace_back([&] { EXPECT_EQ(RunStream(model, count, 100), count); });
    }
    for (std::thread& client : clients) client.join();
  }

  AnsweringService service_;
  DoorState state_;
  std::unique_ptr<GrpcServer> server_;
};

// An answer that is there before the next message is read: writes and reads end on several threads
// at once.
TEST_F(GrpcStreamTest, RequestsThatAreRefusedAtOnceAreAllAnsweredInOrder) {
  RunStreams("nope", 8, 6000);
}

TEST_F(GrpcStreamTest, RequestsThatModelsAnswerAreAllAnsweredInOrder) {
  RunStreams("echo", 4, 2000);
}

// The client goes while answers come from the models' threads, which hold no call of gRPC's.
TEST_F(GrpcStreamTest, StreamsMayBeCancelledWhileTheirAnswersCome) {
  const auto leave_in_the_middle = [this](int seed) {
    const auto stub = Connect();
    for (int round = 0; round < 150; ++round) {
      grpc::ClientContext context;
      const auto stream = stub->ModelStreamInfer(&context);
      for (int i = 0; i < 16 && stream->Write(Request("echo", i)); ++i) {
      }
      inference::ModelStreamInferResponse response;
      for (int i = 0; i < (round + seed) % 12; ++i) stream->Read(&response);
      context.TryCancel();
      stream->Finish();
    }
  };
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) clients.emplace_back(leave_in_the_middle, i);
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(RunStream("echo", 10, 1), 10) << "others go on";
}

// DrainAll has run, or is about to, and knows nothing of it.
TEST_F(GrpcStreamTest, AStreamThatIsOpenedDuringTheDrainIsEnded) {
  state_.draining = true;
  const auto stub = Connect();
  grpc::ClientContext context;
  const auto stream = stub->ModelStreamInfer(&context);
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace siglip
