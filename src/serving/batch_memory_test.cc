// What batches, ensembles, queues and loads do when memory runs out on their way. In a program of
// its own, whose operator new fails when told.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <future>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/failing_new_for_test.h"
#include "serving/batcher.h"
#include "serving/deployment.h"
#include "serving/ensemble.h"
#include "serving/fakes_for_test.h"
#include "serving/forward_scheduler.h"
#include "serving/service_impl.h"
#include "serving/work_lanes.h"

namespace {

// The allocation of this thread that fails, counted from now; 0: none. Only one fails.
thread_local int failing = 0;

}  // namespace

void* TestAllocate(std::size_t bytes) {
  if (failing > 0 && --failing == 0) return nullptr;
  return std::malloc(bytes == 0 ? 1 : bytes);
}

namespace siglip {
namespace {

using testing::AddOneStep;
using testing::FloatConfig;
using testing::FloatRequest;
using testing::ManualClock;

// Runs what waits while allocation `number` fails; false if there were not so many.
bool RunWithout(int number, Batcher& batcher, const ManualClock& clock) {
  failing = number;
  try {
    batcher.Execute(batcher.TakeBatch(clock.NowNs()));
  } catch (const std::bad_alloc&) {  // as the thread of an instance
  }
  const bool failed = failing == 0;
  failing = 0;
  return failed;
}

struct Queue {
  explicit Queue(DynamicBatching batching)
      : batcher({.config = std::make_shared<const ModelConfig>(ConfigWith(std::move(batching))),
                 .step = std::make_shared<AddOneStep>(),
                 .clock = &clock,
                 .statistics = &statistics}) {}

  static ModelConfig ConfigWith(DynamicBatching batching) {
    ModelConfig config = FloatConfig();
    config.dynamic_batching = std::move(batching);
    return config;
  }

  ManualClock clock;
  StatisticsRecorder statistics{"m", "1", clock, {}};
  Batcher batcher;
};

// Each allocation of a batch's way fails once: nobody is left without an answer, nobody gets two,
// and the next batch runs.
TEST(BatchMemoryTest, ABatchWithoutMemoryIsAnsweredAndTheNextRuns) {
  int number = 0;
  for (bool failed = true; failed;) {
    SCOPED_TRACE(++number);
    ASSERT_LT(number, 1000);
    Queue queue({.preserve_ordering = true});
    std::vector<InferResponse> answers;
    answers.reserve(8);
    for (int i = 0; i < 3; ++i) queue.batcher.Enqueue(FloatRequest({1, 2}, &answers));
    failed = RunWithout(number, queue.batcher, queue.clock);
    // What memory did not suffice to take out.
    queue.batcher.Execute(queue.batcher.TakeBatch(queue.clock.NowNs()));
    EXPECT_EQ(answers.size(), 3u);
    for (const InferResponse& answer : answers) {
      const bool no_memory =
          absl::IsResourceExhausted(answer.status) || absl::IsInternal(answer.status);
      EXPECT_TRUE(answer.status.ok() || (failed && no_memory)) << answer.status;
    }
    queue.batcher.Enqueue(FloatRequest({1, 2}, &answers));
    queue.batcher.Execute(queue.batcher.TakeBatch(queue.clock.NowNs()));
    ASSERT_EQ(answers.size(), 4u);
    EXPECT_TRUE(answers.back().status.ok()) << answers.back().status;
    EXPECT_EQ(queue.statistics.Snapshot().pending_requests, 0);
  }
  EXPECT_GT(number, 10);
}

// What an ensemble does at the end of a request: it lets the next one in.
void AskAgain(Batcher& batcher, std::vector<InferResponse>& answers) {
  const int kept = std::exchange(failing, 0);
  batcher.Enqueue(FloatRequest({1, 2}, &answers));
  failing = kept;
}

TEST(BatchMemoryTest, RequestsThatExpireWithoutMemoryAreAnsweredAndOthersMayCome) {
  int number = 0;
  for (bool failed = true; failed;) {
    SCOPED_TRACE(++number);
    ASSERT_LT(number, 1000);
    DynamicBatching batching;
    batching.default_queue_policy.default_timeout_us = 1;
    Queue queue(batching);
    std::vector<InferResponse> others;
    others.reserve(8);
    std::vector<absl::Status> answers;
    answers.reserve(8);
    for (int i = 0; i < 3; ++i) {
      auto request = FloatRequest({1, 2});
      request->done = [&](const InferResponse& response) {
        answers.push_back(response.status);
        AskAgain(queue.batcher, others);
      };
      queue.batcher.Enqueue(std::move(request));
    }
    queue.clock.Advance(1'000'000);
    failed = RunWithout(number, queue.batcher, queue.clock);
    for (int i = 0; i < 3; ++i) queue.batcher.Execute(queue.batcher.TakeBatch(queue.clock.NowNs()));
    EXPECT_EQ(answers.size(), 3u);
    EXPECT_EQ(others.size(), 3u);
    for (const InferResponse& answer : others) EXPECT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(queue.statistics.Snapshot().pending_requests, 0);
  }
  EXPECT_GT(number, 3);
}

// A request for which a full queue has no room takes out those whose clients have gone.
TEST(BatchMemoryTest, TheGoneOfAFullQueueAreCountedWithoutMemory) {
  int number = 0;
  for (bool failed = true; failed;) {
    SCOPED_TRACE(++number);
    ASSERT_LT(number, 1000);
    DynamicBatching batching;
    batching.default_queue_policy.max_queue_size = 3;
    Queue queue(batching);
    std::vector<InferResponse> answers;
    answers.reserve(8);
    for (int i = 0; i < 3; ++i) {
      auto request = FloatRequest({1, 2}, &answers);
      request->is_cancelled = [] { return true; };
      queue.batcher.Enqueue(std::move(request));
    }
    auto request = FloatRequest({1, 2}, &answers);
    failing = number;
    try {
      queue.batcher.Enqueue(std::move(request));
    } catch (const std::bad_alloc&) {  // as a door
    }
    failed = failing == 0;
    failing = 0;
    for (int i = 0; i < 4; ++i) queue.batcher.Execute(queue.batcher.TakeBatch(queue.clock.NowNs()));
    EXPECT_EQ(answers.size(), 4u);
    EXPECT_EQ(queue.statistics.Snapshot().pending_requests, 0);
  }
  EXPECT_GT(number, 10);
}

// Steps whose answers the test gives.
class HeldSteps final : public ModelAccess {
 public:
  HeldSteps() { held_.reserve(16); }

  absl::StatusOr<std::shared_ptr<const ModelConfig>> ReadyConfig(
      const std::string&, const std::string&) const override {
    return absl::NotFoundError("");
  }
  void InferWithin(std::unique_ptr<InferRequest> request) override {
    held_.push_back(std::move(request));
  }
  std::uint64_t generation() const override { return 0; }

  bool empty() const { return held_.empty(); }
  // Answers the oldest, while allocation `number` from now fails. Whether it did.
  bool AnswerWithout(int number) {
    std::unique_ptr<InferRequest> request = std::move(held_.front());
    held_.erase(held_.begin());
    InferResponse response;
    auto storage = std::make_shared<std::vector<float>>(std::vector<float>{1, 2});
    OutputTensor& output = response.outputs.emplace_back();
    output.name = "Y";
    output.shape = {1, 2};
    output.data = std::as_bytes(std::span(*storage));
    output.storage = std::move(storage);
    failing = number;
    try {
      Answer(*request, std::move(response));
      request.reset();
    } catch (const std::bad_alloc&) {  // as a batch does
    }
    const bool failed = number > 0 && failing == 0;
    failing = 0;
    return failed;
  }

 private:
  std::vector<std::unique_ptr<InferRequest>> held_;
};

EnsembleStep Link(std::string model, std::string in, std::string out) {
  return {.model_name = std::move(model),
          .input_map = {{"X", std::move(in)}},
          .output_map = {{"Y", std::move(out)}}};
}

// a and b side by side, then c with what a made.
ModelConfig TwoBesideEachOther() {
  ModelConfig config = FloatConfig("e");
  config.ensemble_steps = {Link("a", "X", "mid"), Link("b", "X", "rest"), Link("c", "mid", "Y")};
  config.ensemble_max_inflight_requests = 1;
  return config;
}

// Each allocation that follows an answer fails once: each request has an answer, and the one place
// of the ensemble is free for those that wait.
TEST(EnsembleMemoryTest, ARequestWithoutMemoryIsAnsweredAndGivesItsPlaceBack) {
  const auto config = std::make_shared<const ModelConfig>(TwoBesideEachOther());
  for (int victim = 0; victim < 3; ++victim) {
    int number = 0;
    for (bool failed = true; failed;) {
      SCOPED_TRACE(::testing::Message() << victim << ", " << ++number);
      ASSERT_LT(number, 1000);
      ManualClock clock;
      StatisticsRecorder statistics("e", "1", clock, {});
      const auto steps = std::make_shared<HeldSteps>();
      std::vector<InferResponse> answers;
      answers.reserve(8);
      {
        EnsembleScheduler ensemble(config, clock, statistics);
        for (int i = 0; i < 3; ++i) {
          auto request = FloatRequest({1, 2}, &answers, "e");
          request->models = steps;
          ensemble.Enqueue(std::move(request));
        }
        int answered = 0;
        for (; !steps->empty(); ++answered) {
          const bool fails = steps->AnswerWithout(answered == victim ? number : 0);
          if (answered == victim) failed = fails;
        }
        EXPECT_GE(answered, 6);
        EXPECT_EQ(answers.size(), 3u);
      }
      EXPECT_EQ(answers.size(), 3u);
      int refused = 0;
      for (const InferResponse& answer : answers) refused += answer.status.ok() ? 0 : 1;
      EXPECT_LE(refused, failed ? 1 : 0);
      EXPECT_EQ(statistics.Snapshot().pending_requests, 0);
    }
    EXPECT_GT(number, 2);
  }
}

// `is_cancelled` of a client that has gone. Allocation `number` from its first look on fails, of
// the thread that looks.
class GoneWithout {
 public:
  explicit GoneWithout(int number) : number_(number) {}
  void Leave() { gone_ = true; }
  std::function<bool()> IsCancelled() {
    return [this] {
      if (!gone_) return false;
      if (number_ != 0) failing = std::exchange(number_, 0);
      return true;
    };
  }

 private:
  int number_;  // of the thread that looks
  std::atomic<bool> gone_{false};
};

void WaitFor(const std::atomic<int>& answers, int count) {
  while (answers < count) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// As many as fail while three requests are taken out.
constexpr int kGoneAllocations = 6;

TEST(EnsembleMemoryTest, TheGoneAreCountedWithoutMemory) {
  const auto config = std::make_shared<const ModelConfig>(TwoBesideEachOther());
  for (int number = 1; number <= kGoneAllocations; ++number) {
    SCOPED_TRACE(number);
    SystemClock clock;
    StatisticsRecorder statistics("e", "1", clock, {});
    const auto steps = std::make_shared<HeldSteps>();
    GoneWithout gone(number);
    std::atomic<int> answers{0};
    EnsembleScheduler ensemble(config, clock, statistics);
    for (int i = 0; i < 4; ++i) {
      auto request = FloatRequest({1, 2}, nullptr, "e");
      request->models = steps;
      request->done = [&answers](const InferResponse&) { ++answers; };
      if (i > 0) request->is_cancelled = gone.IsCancelled();
      ensemble.Enqueue(std::move(request));
    }
    gone.Leave();
    WaitFor(answers, 3);
    EXPECT_EQ(statistics.Snapshot().pending_requests, 0);
    EXPECT_EQ(statistics.Snapshot().fail.count, 3u);
    while (!steps->empty()) steps->AnswerWithout(0);
    EXPECT_EQ(answers, 4);
  }
}

// Answers when the test says so.
class HeldForwarder final : public Forwarder {
 public:
  void Forward(std::unique_ptr<InferRequest> request, ModelAccess&) override {
    released_.wait();
    InferResponse response;
    response.status = absl::UnavailableError("held");
    Answer(*request, std::move(response));
  }
  WorkLoad LoadOf(const InferRequest&) const override { return WorkLoad::kVerySlow; }
  void Release() { release_.set_value(); }

 private:
  std::promise<void> release_;
  std::shared_future<void> released_ = release_.get_future().share();
};

// A forwarding model whose requests wait behind the first one.
class LanesMemoryTest : public ::testing::Test {
 protected:
  LanesMemoryTest() { answers_ = 0; }
  ~LanesMemoryTest() override { WaitFor(answers_, sent_); }
  void Send(std::function<bool()> is_cancelled, int number) {
    auto request = FloatRequest({1, 2});
    request->models = models_;
    request->is_cancelled = std::move(is_cancelled);
    request->done = [this](const InferResponse&) { ++answers_; };
    ++sent_;
    failing = number;
    try {
      scheduler_.Enqueue(std::move(request));
    } catch (const std::bad_alloc&) {  // as a door
      ++refused_;
    }
    failing = 0;
  }

  SystemClock clock_;
  StatisticsRecorder statistics_{"f", "1", clock_, {}};
  std::atomic<int> answers_;
  int sent_ = 0;
  int refused_ = 0;
  const std::shared_ptr<HeldSteps> models_ = std::make_shared<HeldSteps>();
  const std::shared_ptr<HeldForwarder> forwarder_ = std::make_shared<HeldForwarder>();
  WorkLanes lanes_{clock_, 1};
  ForwardScheduler scheduler_{std::make_shared<const ModelConfig>(FloatConfig("f")), forwarder_,
                              clock_, statistics_, lanes_};
};

TEST_F(LanesMemoryTest, ARequestWithoutMemoryToWaitIsNotCounted) {
  for (int i = 0; i < 40; ++i) Send({}, 1);
  EXPECT_GT(refused_, 0);
  forwarder_->Release();
  WaitFor(answers_, sent_);
  EXPECT_EQ(statistics_.Snapshot().pending_requests, 0);
}

TEST_F(LanesMemoryTest, TheGoneAreCountedWithoutMemory) {
  Send({}, 0);
  while (statistics_.Snapshot().pending_requests != 0) std::this_thread::yield();
  for (int number = 1; number <= kGoneAllocations; ++number) {
    SCOPED_TRACE(number);
    GoneWithout gone(number);
    const int before = answers_;
    for (int i = 0; i < 3; ++i) Send(gone.IsCancelled(), 0);
    gone.Leave();
    WaitFor(answers_, before + 3);
    EXPECT_EQ(statistics_.Snapshot().pending_requests, 0);
    EXPECT_EQ(statistics_.Snapshot().fail.count, static_cast<std::uint64_t>(3 * number));
  }
  forwarder_->Release();
}

// Lets an allocation of the thread that loads fail, from its first look at the model on.
class FailingRepository final : public ModelRepository {
 public:
  explicit FailingRepository(int& number) : number_(number) {}
  absl::StatusOr<std::vector<std::string>> Names() const override {
    return std::vector<std::string>{"e", "m"};
  }
  absl::StatusOr<ModelConfig> Read(const std::string& name) const override {
    ModelConfig config = FloatConfig(name);
    if (name == "e") {
      config.backend.clear();
      config.platform = "ensemble";
      config.ensemble_steps = {Link("m", "X", "Y")};
    }
    if (number_ != 0) failing = std::exchange(number_, 0);
    return config;
  }
  std::uint64_t Stamp(const std::string&) const override { return 0; }

 private:
  int& number_;  // of the thread that loads
};

class AddOneFactory final : public DeploymentFactory {
 public:
  absl::StatusOr<Deployment> Make(ModelConfig&) override {
    Deployment deployment;
    deployment.step = std::make_shared<AddOneStep>();
    return deployment;
  }
};

// Each allocation of a load fails once: it ends, nothing says that it goes on, and the next one is
// as good as ever.
TEST(ControlMemoryTest, ALoadWithoutMemoryEnds) {
  SystemClock clock;
  AddOneFactory factory;
  int number = 0;
  for (bool failed = true; failed;) {
    SCOPED_TRACE(++number);
    ASSERT_LT(number, 2000);
    int fails = number;
    auto opened = ServiceImpl::Open(std::make_unique<FailingRepository>(fails), factory, clock,
                                    {.control_mode = ModelControlMode::kExplicit});
    ASSERT_TRUE(opened.ok()) << opened.status();
    ServiceImpl& service = **opened;
    // What is left of `number` on the thread that loads; nothing if the answer was dropped.
    const auto load = [&service] {
      auto left = std::make_shared<std::promise<int>>();
      auto future = left->get_future();
      service.LoadModel({"e", {}}, [left = std::move(left)](const absl::Status&) {
        left->set_value(std::exchange(failing, 0));
      });
      try {
        return future.get();
      } catch (const std::future_error&) {
        return 0;
      }
    };
    failed = load() == 0;
    for (const IndexRow& row : service.RepositoryIndex(false)) {
      EXPECT_NE(row.state, "LOADING") << row.name;
    }
    load();
    for (const IndexRow& row : service.RepositoryIndex(false)) {
      EXPECT_EQ(row.state, "READY") << row.name << ": " << row.reason;
    }
    EXPECT_TRUE(service.Ready());
  }
  EXPECT_GT(number, 100);
}

TEST(BudgetTest, WhatHasNoMemoryForItsHoldHoldsNothing) {
  const auto budget = std::make_shared<Budget>(10);
  failing = 1;
  EXPECT_THROW(budget->TryHold(7), std::bad_alloc);
  failing = 0;
  EXPECT_EQ(budget->held(), 0);
}

}  // namespace
}  // namespace siglip
