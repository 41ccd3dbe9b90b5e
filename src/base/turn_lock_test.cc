#include "base/turn_lock.h"

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace siglip {
namespace {

// Threads queue up one by one while the lock is held; a thread that comes back goes to the end.
TEST(TurnLock, TheLongestWaitIsServedFirst) {
  constexpr int kThreads = 3;
  TurnLock lock;
  std::vector<int> order;
  std::vector<std::thread> threads;
  lock.Lock();
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int turn = 0; turn < 2; ++turn) {
        TurnHold hold(lock);
        order.push_back(i);
        // The second round begins once all wait, or are through with it.
        while (turn == 0 && lock.waiting() + order.size() < kThreads) std::this_thread::yield();
      }
    });
    while (lock.waiting() < static_cast<std::uint64_t>(i + 1)) std::this_thread::yield();
  }
  lock.Unlock();
  for (std::thread& thread : threads) thread.join();
  ASSERT_EQ(order.size(), 6u);
  EXPECT_EQ(std::vector<int>(order.begin(), order.begin() + 3), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(lock.waiting(), 0u);
}

}  // namespace
}  // namespace siglip
