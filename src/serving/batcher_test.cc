#include "serving/batcher.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <iterator>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serving/fakes_for_test.h"
#include "serving/overload.h"

namespace siglip {
namespace {

using testing::AddOneStep;
using testing::Answered;
using ::testing::ElementsAre;
using testing::FloatConfig;
using testing::FloatRequest;
using testing::Floats;
using ::testing::HasSubstr;
using testing::ManualClock;

constexpr std::int64_t kUs = 1000;

class BatcherTest : public ::testing::Test {
 protected:
  // One delay of 100 us, preferred sizes 4 and 8.
  static ModelConfig Batching() {
    ModelConfig config = FloatConfig();
    config.dynamic_batching =
        DynamicBatching{.preferred_batch_sizes = {4, 8}, .max_queue_delay_us = 100};
    return config;
  }
  Batcher& Make(ModelConfig config, std::int64_t cost_limit = 100) {
    batcher_ = std::make_unique<Batcher>(
        Batcher::Parts{.config = std::make_shared<const ModelConfig>(std::move(config)),
                       .step = step_,
                       .clock = &clock_,
                       .statistics = &statistics_,
                       .budget = budget_,
                       .running_cost_bytes = cost_limit});
    return *batcher_;
  }
  void Send(std::vector<float> values) {
    batcher_->Enqueue(FloatRequest(std::move(values), &answers_));
  }
  void SendRows(int rows) { Send(std::vector<float>(static_cast<std::size_t>(2 * rows), 1.0F)); }
  // Takes and runs a batch; its rows.
  std::int64_t RunOnce() {
    Batcher::Taken taken = batcher_->TakeBatch(clock_.NowNs());
    std::int64_t rows = 0;
    for (const QueuedRequest& queued : taken.batch) rows += queued.rows();
    batcher_->Execute(std::move(taken));
    return rows;
  }

  std::vector<InferResponse> answers_;
  ManualClock clock_;
  StatisticsRecorder statistics_{"m", "1", clock_};
  std::shared_ptr<AddOneStep> step_ = std::make_shared<AddOneStep>();
  std::shared_ptr<Budget> budget_ = std::make_shared<Budget>(1 << 20);
  std::unique_ptr<Batcher> batcher_;
};

TEST_F(BatcherTest, WaitsForTheDelayThenTakesWhatIsThere) {
  Make(Batching());
  SendRows(1);
  SendRows(2);
  Batcher::Taken taken = batcher_->TakeBatch(clock_.NowNs());
  EXPECT_TRUE(taken.batch.empty());
  EXPECT_EQ(taken.wake_ns, clock_.NowNs() + 100 * kUs);
  clock_.Advance(100 * kUs);
  EXPECT_EQ(RunOnce(), 3);
  EXPECT_EQ(answers_.size(), 2u);
}

TEST_F(BatcherTest, PreferredSizeGoesAtOnceAndLeavesTheRest) {
  Make(Batching());
  for (int i = 0; i < 5; ++i) SendRows(1);
  EXPECT_EQ(RunOnce(), 4);
  EXPECT_EQ(RunOnce(), 0);
  clock_.Advance(100 * kUs);
  EXPECT_EQ(RunOnce(), 1);
}

TEST_F(BatcherTest, FullBatchGoesAtOnceAndIsNeverExceeded) {
  ModelConfig config = Batching();
  config.dynamic_batching->preferred_batch_sizes = {};
  Make(config);
  SendRows(5);
  EXPECT_EQ(RunOnce(), 0);
  SendRows(6);
  EXPECT_EQ(RunOnce(), 5) << "the next does not fit: waiting gains nothing";
  EXPECT_EQ(RunOnce(), 0);
  SendRows(2);
  EXPECT_EQ(RunOnce(), 8);
}

TEST_F(BatcherTest, WithoutDelayAFreeInstanceTakesAll) {
  ModelConfig config = Batching();
  config.dynamic_batching->max_queue_delay_us = 0;
  Make(config);
  for (int i = 0; i < 5; ++i) SendRows(1);
  EXPECT_EQ(RunOnce(), 5);
}

TEST_F(BatcherTest, WithoutBatchingRequestsGoAlone) {
  Make(FloatConfig());
  SendRows(3);
  SendRows(1);
  EXPECT_EQ(RunOnce(), 3);
  EXPECT_EQ(RunOnce(), 1);
}

TEST_F(BatcherTest, AnswersAreTheRequestsOwnRows) {
  Make(Batching());
  Send({1, 2, 3, 4});
  Send({10, 20, 30, 40});
  EXPECT_EQ(RunOnce(), 4);
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_THAT(Floats(answers_[0].outputs[0]), ElementsAre(2, 3, 4, 5));
  EXPECT_THAT(Floats(answers_[1].outputs[0]), ElementsAre(11, 21, 31, 41));
  EXPECT_THAT(answers_[0].outputs[0].shape, ElementsAre(2, 2));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(answers_[0].outputs[0].data.data()) % 64, 0u);
}

TEST_F(BatcherTest, OneBadRequestFailsAlone) {
  Make(Batching());
  Send({1, 1});
  Send({-1, 1, 5, 5, -2, 0});
  EXPECT_EQ(RunOnce(), 4);
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_TRUE(answers_[0].status.ok());
  EXPECT_EQ(answers_[1].status.message(),
            "2 of 3 items failed: item 0: negative; item 2: negative");
  EXPECT_EQ(statistics_.Snapshot().success.count, 1u);
  EXPECT_EQ(statistics_.Snapshot().fail.count, 1u);
  EXPECT_EQ(statistics_.Snapshot().failures.at(FailureReason::kBackend), 1u);
}

TEST_F(BatcherTest, FailedRunFailsTheBatchAsBackend) {
  step_->fail = absl::InternalError("device lost");
  Make(FloatConfig());
  SendRows(1);
  RunOnce();
  EXPECT_EQ(answers_.at(0).status, absl::InternalError("device lost"));
  EXPECT_EQ(statistics_.Snapshot().failures.at(FailureReason::kBackend), 1u);
  EXPECT_EQ(statistics_.Snapshot().execution_count, 0u);
}

TEST_F(BatcherTest, MisalignedInputIsCopiedAndEqual) {
  Make(FloatConfig());
  auto request = FloatRequest({0, 0}, &answers_);
  auto storage = std::make_shared<std::vector<char>>(9);
  const float values[2] = {3, 4};
  std::memcpy(storage->data() + 1, values, 8);
  request->inputs[0].data = std::as_bytes(std::span(*storage).subspan(1));
  request->inputs[0].storage = storage;
  batcher_->Enqueue(std::move(request));
  RunOnce();
  EXPECT_THAT(Floats(answers_.at(0).outputs[0]), ElementsAre(4, 5));
}

TEST_F(BatcherTest, FullQueueRefusesWithTritonsText) {
  ModelConfig config = Batching();
  config.dynamic_batching->default_queue_policy.max_queue_size = 1;
  Make(config);
  SendRows(1);
  auto request = FloatRequest({1, 1}, &answers_);
  request->id = "a";
  batcher_->Enqueue(std::move(request));
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].status, OverloadedError("[request id: a] Exceeds maximum queue size"));
  EXPECT_EQ(statistics_.Snapshot().failures.at(FailureReason::kRejected), 1u);
  EXPECT_EQ(statistics_.Snapshot().pending_requests, 1);
}

TEST_F(BatcherTest, ExpiredRequestIsRejected) {
  ModelConfig config = Batching();
  config.dynamic_batching->max_queue_delay_us = 1000;
  config.dynamic_batching->default_queue_policy.default_timeout_us = 50;
  Make(config);
  SendRows(1);
  EXPECT_EQ(batcher_->TakeBatch(clock_.NowNs()).wake_ns, clock_.NowNs() + 50 * kUs);
  clock_.Advance(50 * kUs);
  EXPECT_EQ(RunOnce(), 0);
  EXPECT_EQ(answers_.at(0).status, absl::UnavailableError("Request timeout expired"));
}

TEST_F(BatcherTest, DelayedRequestRunsAfterFreshOnes) {
  ModelConfig config = FloatConfig();
  config.dynamic_batching = DynamicBatching{.preferred_batch_sizes = {1}};
  config.dynamic_batching->max_queue_delay_us = 1'000'000;
  config.dynamic_batching->default_queue_policy = {
      .timeout_action = QueuePolicy::TimeoutAction::kDelay, .default_timeout_us = 50};
  Make(config);
  Send({1, 0});
  clock_.Advance(60 * kUs);
  Send({2, 0});
  RunOnce();
  RunOnce();
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_EQ(Floats(answers_[0].outputs[0])[0], 3);
  EXPECT_EQ(Floats(answers_[1].outputs[0])[0], 2);
}

// A request's own timeout counts only when overriding is allowed and it is the shorter one. Unlike
// with Triton, a policy without a timeout is no shorter one.
TEST_F(BatcherTest, OwnTimeoutCountsOnlyWhenAllowedAndShorter) {
  struct Case {
    std::uint64_t policy_us;
    bool allow;
    std::uint64_t own_us;
    std::int64_t expected_us;  // 0: never
  };
  for (const Case& c :
       {Case{100, true, 50, 50}, Case{100, true, 200, 100}, Case{100, false, 50, 100},
        Case{0, true, 50, 50}, Case{0, false, 50, 0}, Case{100, true, 0, 100}}) {
    ModelConfig config = Batching();
    config.dynamic_batching->max_queue_delay_us = 1'000'000;
    config.dynamic_batching->default_queue_policy = {.default_timeout_us = c.policy_us,
                                                     .allow_timeout_override = c.allow};
    Make(config);
    auto request = FloatRequest({1, 1});
    request->timeout_us = c.own_us;
    batcher_->Enqueue(std::move(request));
    const auto wake = batcher_->TakeBatch(clock_.NowNs()).wake_ns;
    const std::int64_t expected = c.expected_us == 0 ? 1'000'000 : c.expected_us;
    EXPECT_EQ(wake, clock_.NowNs() + expected * kUs) << c.policy_us << " " << c.own_us;
  }
}

TEST_F(BatcherTest, OwnTimeoutCountsFromTheRequestsArrivalAtTheService) {
  ModelConfig config = Batching();
  config.dynamic_batching->max_queue_delay_us = 1'000'000;
  config.dynamic_batching->default_queue_policy.allow_timeout_override = true;
  Make(config);
  auto request = FloatRequest({1, 1}, &answers_);
  request->timeout_us = 50;
  request->accepted_ns = clock_.NowNs();
  clock_.Advance(30 * kUs);  // in another model's queue
  batcher_->Enqueue(std::move(request));
  clock_.Advance(19 * kUs);
  EXPECT_EQ(RunOnce(), 0);
  EXPECT_TRUE(answers_.empty());
  clock_.Advance(1 * kUs);
  EXPECT_EQ(RunOnce(), 0);
  EXPECT_EQ(answers_.at(0).status, absl::UnavailableError("Request timeout expired"));
}

TEST_F(BatcherTest, OwnTimeoutCountsWithoutPolicy) {
  for (const ModelConfig& config : {FloatConfig(), Batching()}) {
    answers_.clear();
    Make(config);
    auto request = FloatRequest({1, 1}, &answers_);
    request->timeout_us = 50;
    batcher_->Enqueue(std::move(request));
    clock_.Advance(50 * kUs);
    EXPECT_EQ(RunOnce(), 0);
    ASSERT_EQ(answers_.size(), 1u) << config.dynamic_batching.has_value();
    EXPECT_EQ(answers_[0].status, absl::UnavailableError("Request timeout expired"));
  }
  EXPECT_EQ(statistics_.Snapshot().failures.at(FailureReason::kRejected), 2u);
}

TEST_F(BatcherTest, WhatItsClientNoLongerWaitsForIsDroppedBeforeCompute) {
  ModelConfig config = Batching();
  config.dynamic_batching->max_queue_delay_us = 0;
  // Under DELAY too: late is useless to this client.
  config.dynamic_batching->default_queue_policy = {
      .timeout_action = QueuePolicy::TimeoutAction::kDelay, .default_timeout_us = 10};
  Make(config);
  auto request = FloatRequest({1, 1}, &answers_);
  request->client_end_ns = clock_.NowNs() + 40 * kUs;
  batcher_->Enqueue(std::move(request));
  SendRows(2);
  clock_.Advance(20 * kUs);  // both are delayed
  clock_.Advance(20 * kUs);
  EXPECT_EQ(RunOnce(), 2);
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_EQ(answers_[0].status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(answers_[1].status.ok());
  EXPECT_EQ(statistics_.Snapshot().failures.at(FailureReason::kCanceled), 1u);
}

TEST_F(BatcherTest, AClockThatJumpsAnswersEveryRequestOnce) {
  constexpr std::int64_t kHour = 3'600'000'000 * kUs;
  ModelConfig config = Batching();
  config.dynamic_batching->default_queue_policy.allow_timeout_override = true;
  Make(config);
  clock_.Advance(kHour);
  Send({1, 0});
  auto timed = FloatRequest({2, 0}, &answers_);
  timed->timeout_us = 50;
  batcher_->Enqueue(std::move(timed));
  clock_.Advance(-kHour);
  Send({3, 0});
  EXPECT_EQ(RunOnce(), 0) << "the youngest sets the time: 100 us from now";
  clock_.Advance(100 * kUs);
  EXPECT_EQ(RunOnce(), 3);
  Send({4, 0});
  auto late = FloatRequest({5, 0}, &answers_);
  late->timeout_us = 50;
  batcher_->Enqueue(std::move(late));
  clock_.Advance(kHour);
  EXPECT_EQ(RunOnce(), 1);
  ASSERT_EQ(answers_.size(), 5u);
  EXPECT_EQ(std::count_if(answers_.begin(), answers_.end(),
                          [](const InferResponse& answer) { return answer.status.ok(); }),
            4);
  EXPECT_EQ(answers_[3].status, absl::UnavailableError("Request timeout expired"));
  EXPECT_LT(statistics_.Snapshot().queue.ns, static_cast<std::uint64_t>(2 * kHour));
}

TEST_F(BatcherTest, EachPriorityHasItsOwnPolicy) {
  ModelConfig config = Batching();
  config.dynamic_batching->max_queue_delay_us = 1'000'000;
  config.dynamic_batching->priority_levels = 2;
  config.dynamic_batching->default_priority_level = 1;
  config.dynamic_batching->default_queue_policy = {.default_timeout_us = 500};
  config.dynamic_batching->priority_queue_policy[2] = {.default_timeout_us = 50,
                                                       .max_queue_size = 1};
  Make(config);
  const auto send = [&](std::uint64_t priority) {
    auto request = FloatRequest({1, 1}, &answers_);
    request->priority = priority;
    batcher_->Enqueue(std::move(request));
  };
  send(1);
  send(1);
  send(2);
  send(2);
  ASSERT_EQ(answers_.size(), 1u) << "one place at level 2";
  EXPECT_EQ(answers_[0].status, OverloadedError("Exceeds maximum queue size"));
  clock_.Advance(50 * kUs);
  EXPECT_EQ(RunOnce(), 0);
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_EQ(answers_[1].status, absl::UnavailableError("Request timeout expired"));
  clock_.Advance(450 * kUs);
  EXPECT_EQ(RunOnce(), 0);
  EXPECT_EQ(answers_.size(), 4u);
}

TEST_F(BatcherTest, TheCancelledKeepNobodyOutOfAFullQueue) {
  ModelConfig config = Batching();
  config.dynamic_batching->default_queue_policy.max_queue_size = 1;
  Make(config);
  auto gone = FloatRequest({1, 1}, &answers_);
  gone->is_cancelled = [] { return true; };
  batcher_->Enqueue(std::move(gone));
  SendRows(1);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(statistics_.Snapshot().pending_requests, 1);
}

TEST_F(BatcherTest, PriorityOneGoesFirstAndAbsentMeansDefault) {
  ModelConfig config = FloatConfig();
  config.dynamic_batching = DynamicBatching{.preferred_batch_sizes = {1},
                                            .max_queue_delay_us = 1'000'000,
                                            .priority_levels = 3,
                                            .default_priority_level = 2};
  Make(config);
  const auto send = [&](float value, std::uint64_t priority) {
    auto request = FloatRequest({value, 0}, &answers_);
    request->priority = priority;
    batcher_->Enqueue(std::move(request));
  };
  send(3, 3);
  send(2, 0);
  send(1, 1);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(RunOnce(), 1);
  std::vector<float> order;
  for (const InferResponse& answer : answers_) order.push_back(Floats(answer.outputs[0])[0] - 1);
  EXPECT_THAT(order, ElementsAre(1, 2, 3));
}

TEST_F(BatcherTest, CancelledRequestsLeaveWhenTheBatchIsFormed) {
  Make(Batching());
  auto request = FloatRequest({1, 1}, &answers_);
  request->is_cancelled = [] { return true; };
  batcher_->Enqueue(std::move(request));
  SendRows(4);
  EXPECT_EQ(RunOnce(), 4);
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_EQ(answers_[0].status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(statistics_.Snapshot().failures.at(FailureReason::kCanceled), 1u);
}

TEST_F(BatcherTest, CostlyRequestsDoNotRunTogetherAndAHugeOneRunsAlone) {
  step_->cost_bytes = 60;
  Make(FloatConfig(), 100);
  SendRows(1);
  SendRows(1);
  SendRows(3);
  Batcher::Taken first = batcher_->TakeBatch(clock_.NowNs());
  EXPECT_EQ(first.batch.size(), 1u);
  EXPECT_TRUE(batcher_->TakeBatch(clock_.NowNs()).batch.empty()) << "60 + 60 > 100";
  batcher_->Execute(std::move(first));
  EXPECT_EQ(RunOnce(), 1);
  EXPECT_EQ(RunOnce(), 3) << "180 > 100, yet nothing else runs";
}

TEST_F(BatcherTest, RefusedEstimateRefusesAtOnceNamingTheItem) {
  Make(FloatConfig());
  Send({1, 1, 13, 1});
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(answers_[0].status.message(), "1 of 2 items failed: item 1: thirteen is too large");
}

TEST_F(BatcherTest, MemoryIsHeldUntilTheAnswerIsGone) {
  budget_ = std::make_shared<Budget>(16);  // two rows
  Make(FloatConfig());
  SendRows(2);
  SendRows(1);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].status.code(), absl::StatusCode::kUnavailable);
  answers_.clear();
  RunOnce();
  EXPECT_EQ(budget_->held(), 16);
  answers_.clear();
  EXPECT_EQ(budget_->held(), 0);
  SendRows(3);  // more than all, but nothing else is there
  EXPECT_EQ(RunOnce(), 3);
}

TEST_F(BatcherTest, PreserveOrderingRunsOneBatchAtATime) {
  ModelConfig config = Batching();
  config.dynamic_batching->max_queue_delay_us = 0;
  config.dynamic_batching->preserve_ordering = true;
  Make(config);
  SendRows(8);
  SendRows(8);
  Batcher::Taken first = batcher_->TakeBatch(clock_.NowNs());
  EXPECT_TRUE(batcher_->TakeBatch(clock_.NowNs()).batch.empty());
  batcher_->Execute(std::move(first));
  EXPECT_EQ(RunOnce(), 8);
}

TEST_F(BatcherTest, StatisticsAddUp) {
  step_->during_run = [this] { clock_.Advance(30); };
  Make(Batching());
  SendRows(2);
  SendRows(1);
  clock_.Advance(100 * kUs);
  RunOnce();
  const ModelStatistics s = statistics_.Snapshot();
  EXPECT_EQ(s.inference_count, 3u);
  EXPECT_EQ(s.execution_count, 1u);
  EXPECT_EQ(s.success.count, 2u);
  EXPECT_EQ(s.queue.ns, 2u * 100 * kUs);
  EXPECT_EQ(s.compute_infer.ns, 60u);
  EXPECT_EQ(s.compute_input.count, s.compute_output.count);
  EXPECT_EQ(s.batches.at(3).compute_infer.ns, 30u);
  EXPECT_EQ(s.pending_requests, 0);
}

TEST_F(BatcherTest, DestroyingAnswersWhatIsQueued) {
  Make(Batching());
  SendRows(1);
  batcher_.reset();
  EXPECT_EQ(answers_.at(0).status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(answers_[0].status.message()), HasSubstr("Server is stopping"));
}

TEST(Request, DestroyingOneAnswersInternalOnce) {
  std::vector<InferResponse> answers;
  FloatRequest({1, 1}, &answers).reset();
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].status.code(), absl::StatusCode::kInternal);
  Refuse(FloatRequest({1, 1}, &answers), absl::CancelledError("x"));
  EXPECT_EQ(answers.size(), 2u);
}

// Threads: every request is answered with its own rows, whatever batches form.
TEST(BatcherThreads, AllRequestsAreAnsweredWithTheirOwnRows) {
  SystemClock clock;
  StatisticsRecorder statistics("m", "1", clock);
  ModelConfig config = FloatConfig();
  config.dynamic_batching =
      DynamicBatching{.preferred_batch_sizes = {4},
                      .max_queue_delay_us = 200,
                      .default_queue_policy = {.default_timeout_us = 60'000'000}};
  auto step = std::make_shared<AddOneStep>();
  step->cost_bytes = 20;
  Batcher batcher({.config = std::make_shared<const ModelConfig>(config),
                   .step = step,
                   .clock = &clock,
                   .statistics = &statistics,
                   .running_cost_bytes = 100});
  ASSERT_TRUE(batcher.Start(3).ok());
  constexpr int kSenders = 4;
  constexpr int kEach = 100;
  std::vector<std::thread> senders;
  std::atomic<int> wrong{0};
  for (int s = 0; s < kSenders; ++s) {
    senders.emplace_back([&, s] {
      for (int i = 0; i < kEach; ++i) {
        const auto value = static_cast<float>(s * 1000 + i + 100);
        auto request =
            FloatRequest(std::vector<float>(static_cast<std::size_t>(2 * (1 + i % 3)), value));
        Answered answered(*request);
        batcher.Enqueue(std::move(request));
        const InferResponse response = answered.Wait();
        if (!response.status.ok() || Floats(response.outputs[0])[0] != value + 1) ++wrong;
      }
    });
  }
  for (std::thread& sender : senders) sender.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(statistics.Snapshot().success.count, static_cast<std::uint64_t>(kSenders * kEach));
}

// Its only instance has a request until Finish.
class BusyBatcher {
 public:
  explicit BusyBatcher(const ModelConfig& config)
      : batcher({.config = std::make_shared<const ModelConfig>(config),
                 .step = step_,
                 .clock = &clock_,
                 .statistics = &statistics_}) {
    std::promise<void> entered;
    step_->during_run = [this, &entered, first = true]() mutable {
      if (std::exchange(first, false)) {
        entered.set_value();
        release_.get_future().wait();
      }
    };
    EXPECT_TRUE(batcher.Start(1).ok());
    batcher.Enqueue(std::move(running_));
    entered.get_future().wait();
  }
  InferResponse Finish() {
    release_.set_value();
    return answer_.Wait();
  }

 private:
  SystemClock clock_;
  StatisticsRecorder statistics_{"m", "1", clock_};
  std::shared_ptr<AddOneStep> step_ = std::make_shared<AddOneStep>();
  std::unique_ptr<InferRequest> running_ = FloatRequest({1, 1});
  Answered answer_{*running_};
  std::promise<void> release_;

 public:
  Batcher batcher;
};

TEST(BatcherThreads, ExpiredRequestsAreRefusedWhileAllInstancesWork) {
  ModelConfig config = FloatConfig();
  // Only the waiting request is given a short time: the running one must not expire before it runs.
  config.dynamic_batching = DynamicBatching{
      .default_queue_policy = {.default_timeout_us = 600'000'000, .allow_timeout_override = true}};
  BusyBatcher busy(config);
  auto waiting = FloatRequest({1, 1});
  waiting->timeout_us = 1000;
  Answered waiting_answer(*waiting);
  busy.batcher.Enqueue(std::move(waiting));
  EXPECT_EQ(waiting_answer.Wait().status, absl::UnavailableError("Request timeout expired"));
  EXPECT_TRUE(busy.Finish().status.ok());
}

TEST_F(BatcherTest, StepChoosesTheMemoryOfItsOutputs) {
  std::vector<float> memory(16);
  auto held = std::make_shared<int>(0);
  step_->output_memory = [&](std::size_t bytes) {
    return OutputMemory{.bytes = std::as_writable_bytes(std::span(memory)).first(bytes),
                        .owner = held};
  };
  Make(FloatConfig());
  Send({1, 2, 3, 4});
  EXPECT_EQ(RunOnce(), 2);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(static_cast<const void*>(answers_[0].outputs[0].data.data()), memory.data());
  EXPECT_THAT(Floats(answers_[0].outputs[0]), ElementsAre(2, 3, 4, 5));
  EXPECT_EQ(held.use_count(), 2) << "this test and the answer";
  answers_.clear();
  EXPECT_EQ(held.use_count(), 1) << "given back with the answer";
}

TEST_F(BatcherTest, StepIsToldWhenARequestEnds) {
  Make(FloatConfig());
  step_->until_end = [this](std::int64_t end_ns) { clock_.Set(end_ns); };
  auto request = FloatRequest({1, 1}, &answers_);
  request->timeout_us = 50;
  const std::int64_t timeout_ns = clock_.NowNs() + 50 * kUs;
  batcher_->Enqueue(std::move(request));
  RunOnce();
  auto call = FloatRequest({1, 1}, &answers_);
  call->client_end_ns = clock_.NowNs() + 70 * kUs;
  const std::int64_t call_ns = call->client_end_ns;
  batcher_->Enqueue(std::move(call));
  RunOnce();
  EXPECT_THAT(step_->ends_ns(), ElementsAre(timeout_ns, call_ns));
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_EQ(answers_[0].status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(answers_[0].status.message()), HasSubstr("Request timeout expired"));
  EXPECT_EQ(answers_[1].status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(BatcherTest, TimeoutsThatOnlyDelayEndNothing) {
  ModelConfig config = Batching();
  config.dynamic_batching->max_queue_delay_us = 0;
  config.dynamic_batching->default_queue_policy.timeout_action = QueuePolicy::TimeoutAction::kDelay;
  config.dynamic_batching->default_queue_policy.default_timeout_us = 10;
  Make(config);
  SendRows(1);
  EXPECT_EQ(RunOnce(), 1);
  EXPECT_THAT(step_->ends_ns(), ElementsAre(INT64_MAX));
}

TEST(BatcherThreads, TheGoneLeaveWhileAllInstancesWork) {
  ModelConfig config = FloatConfig();
  config.dynamic_batching = DynamicBatching{};
  BusyBatcher busy(config);
  auto waiting = FloatRequest({1, 1});
  std::atomic<bool> gone{false};
  waiting->is_cancelled = [&gone] { return gone.load(); };
  Answered waiting_answer(*waiting);
  busy.batcher.Enqueue(std::move(waiting));
  gone = true;
  EXPECT_EQ(waiting_answer.Wait().status, absl::CancelledError("Request was cancelled"));
  EXPECT_TRUE(busy.Finish().status.ok());
}

// A batcher whose estimates may wait.
class EstimatingBatcher {
 public:
  explicit EstimatingBatcher(std::function<void()> during_estimate,
                             ModelConfig config = FloatConfig()) {
    step_->during_estimate = std::move(during_estimate);
    step_->hasty = 5;
    batcher = std::make_unique<Batcher>(
        Batcher::Parts{.config = std::make_shared<const ModelConfig>(std::move(config)),
                       .step = step_,
                       .clock = &clock_,
                       .statistics = &statistics_});
    EXPECT_TRUE(batcher->Start(1).ok());
  }

 private:
  SystemClock clock_;
  StatisticsRecorder statistics_{"m", "1", clock_};
  std::shared_ptr<AddOneStep> step_ = std::make_shared<AddOneStep>();

 public:
  std::unique_ptr<Batcher> batcher;
};

// An estimate that waits keeps neither its sender's thread nor those who have gone.
TEST(BatcherThreads, EstimatesThatMayWaitAreMadeElsewhere) {
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  std::promise<void> begun;
  EstimatingBatcher estimating([&begun, released, first = true]() mutable {
    if (std::exchange(first, false)) begun.set_value();
    released.wait();
  });
  auto slow = FloatRequest({1, 1});
  Answered slow_answer(*slow);
  estimating.batcher->Enqueue(std::move(slow));
  begun.get_future().wait();
  std::atomic<bool> gone{false};
  auto waiting = FloatRequest({1, 1});
  waiting->is_cancelled = [&gone] { return gone.load(); };
  Answered waiting_answer(*waiting);
  estimating.batcher->Enqueue(std::move(waiting));
  gone = true;
  release.set_value();
  EXPECT_TRUE(slow_answer.Wait().status.ok());
  EXPECT_EQ(waiting_answer.Wait().status, absl::CancelledError("Request was cancelled"));
}

std::ptrdiff_t NumThreads() {
  const auto tasks = std::filesystem::directory_iterator("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

// A system that gives no more threads is told at the load, and fails no request.
TEST(BatcherThreads, EstimatesNeedNoThreadOfTheirRequest) {
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  EstimatingBatcher estimating([released] { released.wait(); });
  const std::ptrdiff_t before = NumThreads();
  auto request = FloatRequest({1, 1});
  Answered answer(*request);
  estimating.batcher->Enqueue(std::move(request));
  EXPECT_EQ(NumThreads(), before);
  release.set_value();
  EXPECT_TRUE(answer.Wait().status.ok());
}

// Neither does what needs no wait overtake it, where order counts.
TEST(BatcherThreads, PreserveOrderingHoldsWhileEstimatesWait) {
  ModelConfig config = FloatConfig();
  config.dynamic_batching = DynamicBatching{.preserve_ordering = true};
  std::promise<void> release;
  std::promise<void> begun;
  EstimatingBatcher estimating(
      [&, first = true]() mutable {
        if (!std::exchange(first, false)) return;
        begun.set_value();
        release.get_future().wait();
      },
      config);
  std::vector<InferResponse> answers;  // by the one instance, so by one thread
  std::promise<void> both;
  const auto send = [&](std::vector<float> values) {
    auto request = FloatRequest(std::move(values));
    request->done = [&](InferResponse response) {
      answers.push_back(std::move(response));
      if (answers.size() == 2) both.set_value();
    };
    estimating.batcher->Enqueue(std::move(request));
  };
  send({1, 1});
  begun.get_future().wait();
  send({5, 5});
  release.set_value();
  both.get_future().wait();
  EXPECT_THAT(Floats(answers[0].outputs[0]), ElementsAre(2, 2));
  EXPECT_THAT(Floats(answers[1].outputs[0]), ElementsAre(6, 6));
}

TEST(BatcherThreads, TheEndRefusesWhatWaitsForItsEstimate) {
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  EstimatingBatcher estimating([released] { released.wait(); });
  std::vector<Answered> answers;
  for (int i = 0; i < 2; ++i) {
    auto request = FloatRequest({1, 1});
    answers.emplace_back(*request);
    estimating.batcher->Enqueue(std::move(request));
  }
  estimating.batcher->Stop();
  release.set_value();
  estimating.batcher.reset();
  for (Answered& answer : answers) {
    EXPECT_EQ(answer.Wait().status.code(), absl::StatusCode::kUnavailable);
  }
}

}  // namespace
}  // namespace siglip
