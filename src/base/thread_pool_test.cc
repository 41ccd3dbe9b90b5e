#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <new>
#include <vector>

namespace siglip {
namespace {

TEST(ThreadPool, RunsEveryTaskBeforeItEnds) {
  std::atomic<int> sum{0};
  {
    ThreadPool pool(3);
    for (int i = 1; i <= 1000; ++i) pool.Submit([&sum, i] { sum += i; });
  }
  EXPECT_EQ(sum, 500500);
}

TEST(ThreadPool, ATaskWithoutMemoryCostsItselfAlone) {
  std::atomic<int> sum{0};
  {
    ThreadPool pool(1);
    pool.Submit([] { throw std::bad_alloc(); });
    pool.Submit([&sum] { ++sum; });
  }
  EXPECT_EQ(sum, 1);
}

TEST(ThreadTeam, EachWorkerRunsOncePerCall) {
  for (const int threads : {1, 2, 5}) {
    ThreadTeam team(threads);
    std::vector<int> calls(static_cast<std::size_t>(threads), 0);
    for (int round = 0; round < 500; ++round) {
      team.RunOnAll([&](int worker) { ++calls[static_cast<std::size_t>(worker)]; });
    }
    for (const int n : calls) EXPECT_EQ(n, 500);
  }
}

TEST(ThreadTeam, WakesSleepingWorkers) {
  ThreadTeam team(4);
  std::atomic<int> sum{0};
  for (int round = 0; round < 20; ++round) {
    // Long enough for the workers' spin to end on any machine: they sleep and have to be woken.
    for (int i = 0; i < 200; ++i) std::this_thread::yield();
    team.RunOnAll([&](int worker) { sum += worker; });
  }
  EXPECT_EQ(sum, 20 * (0 + 1 + 2 + 3));
}

}  // namespace
}  // namespace siglip
