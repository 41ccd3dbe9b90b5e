#pragma once

// What may be held together: bytes of requests in flight, threads of loaded models.

#include <cstdint>
#include <memory>
#include <utility>

#include "base/mutex.h"

namespace siglip {

// Thread-safe. Outlives nothing: a Hold keeps its budget alive.
class Budget : public std::enable_shared_from_this<Budget> {
 public:
  explicit Budget(std::int64_t limit) : limit_(limit) {}

  // Gives back what it holds when destroyed.
  class Hold {
   public:
    Hold() = default;
    Hold(std::shared_ptr<Budget> budget, std::int64_t amount)
        : budget_(std::move(budget)), amount_(amount) {}
    Hold(Hold&& other) noexcept
        : budget_(std::move(other.budget_)), amount_(std::exchange(other.amount_, 0)) {}
    Hold& operator=(Hold&& other) noexcept {
      std::swap(budget_, other.budget_);
      std::swap(amount_, other.amount_);
      return *this;
    }
    ~Hold() {
      if (budget_ != nullptr) budget_->Release(amount_);
    }

   private:
    friend class Budget;
    std::shared_ptr<Budget> budget_;
    std::int64_t amount_ = 0;
  };

  // Null if `amount` does not fit beside what is held. What is larger than the whole budget fits
  // when nothing else is held: a huge request runs alone rather than never.
  std::unique_ptr<Hold> TryHold(std::int64_t amount) {
    auto hold = std::make_unique<Hold>();
    return TryGrow(*hold, amount) ? std::move(hold) : nullptr;
  }

  // Adds `amount` to `hold`, which is this budget's or empty. False, and nothing is added, if it
  // does not fit beside what others hold.
  bool TryGrow(Hold& hold, std::int64_t amount) {
    MutexLock lock(mu_);
    if (held_ > hold.amount_ && amount > limit_ - held_) return false;
    held_ += amount;
    hold.amount_ += amount;
    hold.budget_ = shared_from_this();
    return true;
  }

  std::int64_t held() const {
    MutexLock lock(mu_);
    return held_;
  }
  std::int64_t limit() const { return limit_; }

 private:
  void Release(std::int64_t amount) {
    MutexLock lock(mu_);
    held_ -= amount;
  }

  const std::int64_t limit_;
  mutable Mutex mu_;
  std::int64_t held_ SIGLIP_GUARDED_BY(mu_) = 0;
};

}  // namespace siglip
