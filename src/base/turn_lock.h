#pragma once

// A mutex that serves whoever waited longest. std::mutex does not: a thread that unlocks and locks
// again at once usually gets it, and another one may wait for as long as the first is busy.

#include <cstdint>

#include "base/mutex.h"

namespace siglip {

// Thread-safe.
class SIGLIP_CAPABILITY("mutex") TurnLock {
 public:
  void Lock() SIGLIP_ACQUIRE() SIGLIP_NO_THREAD_SAFETY_ANALYSIS {
    MutexLock lock(mu_);
    const std::uint64_t own = next_turn_++;
    while (own != turn_) ended_.Wait(mu_);
  }
  void Unlock() SIGLIP_RELEASE() SIGLIP_NO_THREAD_SAFETY_ANALYSIS {
    {
      MutexLock lock(mu_);
      ++turn_;
    }
    // Each waits for a number of its own: there are as many waiters as kinds of work, two or three.
    ended_.NotifyAll();
  }
  // Threads that wait. For tests.
  std::uint64_t waiting() const {
    MutexLock lock(mu_);
    return next_turn_ == turn_ ? 0 : next_turn_ - turn_ - 1;
  }

 private:
  mutable Mutex mu_;
  CondVar ended_;
  std::uint64_t next_turn_ SIGLIP_GUARDED_BY(mu_) = 0;  // of the next that comes
  std::uint64_t turn_ SIGLIP_GUARDED_BY(mu_) = 0;       // whose it is
};

class SIGLIP_SCOPED_CAPABILITY TurnHold {
 public:
  explicit TurnHold(TurnLock& lock) SIGLIP_ACQUIRE(lock) : lock_(lock) { lock_.Lock(); }
  ~TurnHold() SIGLIP_RELEASE() { lock_.Unlock(); }
  TurnHold(const TurnHold&) = delete;
  TurnHold& operator=(const TurnHold&) = delete;

 private:
  TurnLock& lock_;
};

}  // namespace siglip
