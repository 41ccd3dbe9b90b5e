#include "serving/statistics_recorder.h"

#include <gtest/gtest.h>

#include "serving/fakes_for_test.h"

namespace siglip {
namespace {

TEST(Statistics, FinishedRequestsCountOnceInEveryRow) {
  testing::ManualClock clock;
  StatisticsRecorder recorder("m", "1", clock);
  recorder.RecordSuccess(5, 100, {.queue_ns = 10, .input_ns = 20, .infer_ns = 30, .output_ns = 40});
  recorder.RecordSuccess(1, 100, {.queue_ns = 1, .input_ns = 2, .infer_ns = 3, .output_ns = 4});
  recorder.RecordExecution(6, {.input_ns = 20, .infer_ns = 30, .output_ns = 40});
  const ModelStatistics s = recorder.Snapshot();
  EXPECT_EQ(s.inference_count, 6u);
  EXPECT_EQ(s.execution_count, 1u);
  for (const StatisticDuration* d :
       {&s.success, &s.queue, &s.compute_input, &s.compute_infer, &s.compute_output}) {
    EXPECT_EQ(d->count, 2u);
  }
  EXPECT_EQ(s.compute_infer.ns, 33u);
  EXPECT_EQ(s.batches.at(6).compute_infer.count, 1u);
  EXPECT_EQ(s.last_inference_ms, static_cast<std::uint64_t>(clock.UnixMs()));
}

TEST(Statistics, FailuresHaveAllReasonsFromTheStart) {
  testing::ManualClock clock;
  StatisticsRecorder recorder("m", "1", clock);
  EXPECT_EQ(recorder.Snapshot().failures.size(), 4u);
  recorder.RecordFailure(FailureReasonOf(absl::UnavailableError("")), 5);
  recorder.RecordFailure(FailureReasonOf(absl::CancelledError("")), 5);
  recorder.RecordFailure(FailureReasonOf(absl::InvalidArgumentError("")), 5);
  recorder.RecordFailure(FailureReason::kOther, 5);
  const ModelStatistics s = recorder.Snapshot();
  for (const auto& [reason, count] : s.failures) EXPECT_EQ(count, 1u);
  EXPECT_EQ(s.fail.count, 4u);
  EXPECT_EQ(s.success.count, 0u);
}

TEST(Statistics, ResponsesAreCountedByTheBoundThatTheyDoNotExceed) {
  testing::ManualClock clock;
  StatisticsRecorder recorder("m", "1", clock, {1, 10});
  for (const std::uint64_t us : {500, 1000, 1001, 10'000, 99'000}) {
    recorder.RecordSuccess(1, us * 1000, {});
  }
  recorder.RecordCacheHit(2'000'000, 1000);
  const ResponseHistogram responses = recorder.Snapshot().responses;
  EXPECT_EQ(responses.counts, (std::vector<std::uint64_t>{2, 3, 1}));
  EXPECT_EQ(responses.sum_ns, 113'501'000u);
}

}  // namespace
}  // namespace siglip
