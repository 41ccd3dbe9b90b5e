#pragma once

// Bytes that requests in flight may hold together.

#include <cstdint>
#include <memory>
#include <utility>

#include "base/mutex.h"

namespace siglip {

// Thread-safe. Outlives nothing: a Hold keeps its budget alive.
class MemoryBudget : public std::enable_shared_from_this<MemoryBudget> {
 public:
  explicit MemoryBudget(std::int64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // Gives its bytes back when destroyed.
  class Hold {
   public:
    Hold() = default;
    Hold(std::shared_ptr<MemoryBudget> budget, std::int64_t bytes)
        : budget_(std::move(budget)), bytes_(bytes) {}
    Hold(Hold&& other) noexcept
        : budget_(std::move(other.budget_)), bytes_(std::exchange(other.bytes_, 0)) {}
    Hold& operator=(Hold&& other) noexcept {
      std::swap(budget_, other.budget_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Hold() {
      if (budget_ != nullptr) budget_->Release(bytes_);
    }

   private:
    friend class MemoryBudget;
    std::shared_ptr<MemoryBudget> budget_;
    std::int64_t bytes_ = 0;
  };

  // Nothing if `bytes` do not fit beside what is held. What is larger than the whole budget fits
  // when nothing else is held: a huge request runs alone rather than never.
  std::unique_ptr<Hold> TryHold(std::int64_t bytes) {
    MutexLock lock(mu_);
    if (held_bytes_ > 0 && bytes > limit_bytes_ - held_bytes_) return nullptr;
    held_bytes_ += bytes;
    return std::make_unique<Hold>(shared_from_this(), bytes);
  }

  // Adds `bytes` to `hold`, which is this budget's or empty. False, and nothing is added, if they
  // do not fit beside what others hold.
  bool TryGrow(Hold& hold, std::int64_t bytes) {
    MutexLock lock(mu_);
    if (held_bytes_ > hold.bytes_ && bytes > limit_bytes_ - held_bytes_) return false;
    held_bytes_ += bytes;
    hold.bytes_ += bytes;
    hold.budget_ = shared_from_this();
    return true;
  }

  std::int64_t held_bytes() const {
    MutexLock lock(mu_);
    return held_bytes_;
  }
  std::int64_t limit_bytes() const { return limit_bytes_; }

 private:
  void Release(std::int64_t bytes) {
    MutexLock lock(mu_);
    held_bytes_ -= bytes;
  }

  const std::int64_t limit_bytes_;
  mutable Mutex mu_;
  std::int64_t held_bytes_ SIGLIP_GUARDED_BY(mu_) = 0;
};

}  // namespace siglip
