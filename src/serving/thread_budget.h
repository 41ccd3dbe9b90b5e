#pragma once

// How many threads the models have together. Each loaded name has its own, and a client that may
// load models may load many names.

#include <memory>
#include <utility>

#include "base/mutex.h"

namespace siglip {

// Thread-safe. Outlives nothing: what it gave keeps it alive.
class ThreadBudget : public std::enable_shared_from_this<ThreadBudget> {
 public:
  explicit ThreadBudget(int limit) : limit_(limit) {}

  // Gives them back when the last copy is destroyed. Null if they do not fit beside what is held.
  std::shared_ptr<const void> TryHold(int threads) {
    MutexLock lock(mu_);
    if (threads > limit_ - held_) return nullptr;
    auto hold = std::make_shared<Hold>(shared_from_this(), threads);
    held_ += threads;
    return hold;
  }

  int held() const {
    MutexLock lock(mu_);
    return held_;
  }
  int limit() const { return limit_; }

 private:
  struct Hold {
    Hold(std::shared_ptr<ThreadBudget> from, int count) : budget(std::move(from)), threads(count) {}
    ~Hold() { budget->Release(threads); }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    const std::shared_ptr<ThreadBudget> budget;
    const int threads;
  };

  void Release(int threads) {
    MutexLock lock(mu_);
    held_ -= threads;
  }

  const int limit_;
  mutable Mutex mu_;
  int held_ SIGLIP_GUARDED_BY(mu_) = 0;
};

}  // namespace siglip
