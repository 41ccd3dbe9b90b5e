#pragma once

// std::mutex and std::condition_variable with lock annotations. Not absl::Mutex: the packaged
// Abseil is not built for ThreadSanitizer, which would then see races in every critical section.

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "base/thread_annotations.h"

namespace siglip {

class SIGLIP_CAPABILITY("mutex") Mutex {
 public:
  void Lock() SIGLIP_ACQUIRE() { mu_.lock(); }
  void Unlock() SIGLIP_RELEASE() { mu_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mu_;
};

class SIGLIP_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mu) SIGLIP_ACQUIRE(mu) : mu_(mu) { mu_.Lock(); }
  ~MutexLock() SIGLIP_RELEASE() { mu_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mu_;
};

// Wait with a predicate around it: `while (!ready_) cv_.Wait(mu_);`
class CondVar {
 public:
  void Wait(Mutex& mu) SIGLIP_REQUIRES(mu) SIGLIP_NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> lock(mu.mu_, std::adopt_lock);
    cv_.wait(lock);
    lock.release();
  }

  // Returns false if `timeout` passed without a notification.
  template <class Rep, class Period>
  bool WaitFor(Mutex& mu, std::chrono::duration<Rep, Period> timeout)
      SIGLIP_REQUIRES(mu) SIGLIP_NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> lock(mu.mu_, std::adopt_lock);
#if defined(__SANITIZE_THREAD__)
    // ThreadSanitizer of GCC 12 does not know pthread_cond_clockwait, which steady clocks need.
    const auto end = std::chrono::system_clock::now() + timeout;
#else
    const auto end = std::chrono::steady_clock::now() + timeout;  // whatever the wall clock does
#endif
    const bool notified = cv_.wait_until(lock, end) == std::cv_status::no_timeout;
    lock.release();
    return notified;
  }

  void NotifyOne() { cv_.notify_one(); }
  void NotifyAll() { cv_.notify_all(); }

 private:
  std::condition_variable cv_;
};

}  // namespace siglip
