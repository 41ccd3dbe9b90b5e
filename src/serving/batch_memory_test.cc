// What a batch does when memory runs out on its way. In a program of its own, whose operator new
// fails when told.

#include <cstddef>
#include <cstdlib>
#include <new>
#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "serving/batcher.h"
#include "serving/fakes_for_test.h"

namespace {

// The allocation of this thread that fails, counted from now; 0: none. Only one fails.
thread_local int failing = 0;

void* Allocate(std::size_t bytes) {
  if (failing > 0 && --failing == 0) return nullptr;
  return std::malloc(bytes == 0 ? 1 : bytes);
}

}  // namespace

// Not inlined: GCC takes free for the wrong end of what `new` gave. The other forms call these.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  if (void* const memory = Allocate(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

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

}  // namespace
}  // namespace siglip
