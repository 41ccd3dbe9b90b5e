// What a batch and an ensemble do when memory runs out on their way. In a program of its own, whose
// operator new fails when told.

#include <cstddef>
#include <cstdlib>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/failing_new_for_test.h"
#include "serving/batcher.h"
#include "serving/deployment.h"
#include "serving/ensemble.h"
#include "serving/fakes_for_test.h"

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

// Each allocation of a batch's way fails once: nobody is left without an answer, nobody gets two,
// and the next batch runs.
TEST(BatchMemoryTest, ABatchWithoutMemoryIsAnsweredAndTheNextRuns) {
  int number = 0;
  for (bool failed = true; failed;) {
    SCOPED_TRACE(++number);
    ASSERT_LT(number, 1000);
    ManualClock clock;
    ModelConfig config = FloatConfig();
    config.dynamic_batching = DynamicBatching{.preserve_ordering = true};
    StatisticsRecorder statistics("m", "1", clock, {});
    Batcher batcher({.config = std::make_shared<const ModelConfig>(config),
                     .step = std::make_shared<AddOneStep>(),
                     .clock = &clock,
                     .statistics = &statistics});
    std::vector<InferResponse> answers;
    answers.reserve(8);
    for (int i = 0; i < 3; ++i) batcher.Enqueue(FloatRequest({1, 2}, &answers));
    failed = RunWithout(number, batcher, clock);
    batcher.Execute(batcher.TakeBatch(clock.NowNs()));  // what memory did not suffice to take out
    EXPECT_EQ(answers.size(), 3u);
    for (const InferResponse& answer : answers) {
      const bool no_memory =
          absl::IsResourceExhausted(answer.status) || absl::IsInternal(answer.status);
      EXPECT_TRUE(answer.status.ok() || (failed && no_memory)) << answer.status;
    }
    batcher.Enqueue(FloatRequest({1, 2}, &answers));
    batcher.Execute(batcher.TakeBatch(clock.NowNs()));
    ASSERT_EQ(answers.size(), 4u);
    EXPECT_TRUE(answers.back().status.ok()) << answers.back().status;
    EXPECT_EQ(statistics.Snapshot().pending_requests, 0);
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
    ManualClock clock;
    ModelConfig config = FloatConfig();
    config.dynamic_batching = DynamicBatching();
    config.dynamic_batching->default_queue_policy.default_timeout_us = 1;
    StatisticsRecorder statistics("m", "1", clock, {});
    Batcher batcher({.config = std::make_shared<const ModelConfig>(config),
                     .step = std::make_shared<AddOneStep>(),
                     .clock = &clock,
                     .statistics = &statistics});
    std::vector<InferResponse> others;
    others.reserve(8);
    std::vector<absl::Status> answers;
    answers.reserve(8);
    for (int i = 0; i < 3; ++i) {
      auto request = FloatRequest({1, 2});
      request->done = [&](const InferResponse& response) {
        answers.push_back(response.status);
        AskAgain(batcher, others);
      };
      batcher.Enqueue(std::move(request));
    }
    clock.Advance(1'000'000);
    failed = RunWithout(number, batcher, clock);
    for (int i = 0; i < 3; ++i) batcher.Execute(batcher.TakeBatch(clock.NowNs()));
    EXPECT_EQ(answers.size(), 3u);
    EXPECT_EQ(others.size(), 3u);
    for (const InferResponse& answer : others) EXPECT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(statistics.Snapshot().pending_requests, 0);
  }
  EXPECT_GT(number, 3);
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

TEST(BudgetTest, WhatHasNoMemoryForItsHoldHoldsNothing) {
  const auto budget = std::make_shared<Budget>(10);
  failing = 1;
  EXPECT_THROW(budget->TryHold(7), std::bad_alloc);
  failing = 0;
  EXPECT_EQ(budget->held(), 0);
}

}  // namespace
}  // namespace siglip
