#include "base/thread_pool.h"

#include <chrono>
#include <new>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace siglip {
namespace {

// Who frees memory meanwhile is another thread.
constexpr std::chrono::milliseconds kAfterNoMemory{10};

// A constructor has nothing to return it with.
[[noreturn]] void Throw(const absl::Status& status) {
  throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again),
                          std::string(status.message()));
}

}  // namespace

absl::Status AddThreads(std::vector<std::thread>& threads, int count,
                        const std::function<void(int)>& work) {
  threads.reserve(threads.size() + static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    try {
      threads.emplace_back(work, i);
    } catch (const std::system_error&) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the system gives no more than ", i, " of ", count, " threads"));
    }
  }
  return absl::OkStatus();
}

void Repeat(const std::function<bool()>& round) {
  while (true) {
    try {
      if (!round()) return;
    } catch (const std::bad_alloc&) {
      SIGLIP_LOG_ERROR("out_of_memory: what a thread did is given up");
      std::this_thread::sleep_for(kAfterNoMemory);
    }
  }
}

ThreadPool::ThreadPool(int num_threads) {
  const absl::Status status =
      AddThreads(threads_, num_threads, [this](int) { Repeat([this] { return RunNext(); }); });
  if (status.ok()) return;
  Stop();
  Throw(status);
}

ThreadPool::~ThreadPool() { Stop(); }

void ThreadPool::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  work_available_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::Submit(std::function<void()> task) {
  {
    MutexLock lock(mu_);
    tasks_.push_back(std::move(task));
  }
  work_available_.NotifyOne();
}

// False at the end.
bool ThreadPool::RunNext() {
  std::function<void()> task;
  {
    MutexLock lock(mu_);
    while (tasks_.empty() && !stopping_) work_available_.Wait(mu_);
    if (tasks_.empty()) return false;
    task = std::move(tasks_.front());
    tasks_.pop_front();
  }
  task();
  return true;
}

namespace {

// About 20 us of pause instructions: longer than the gap between two products of one layer, far
// shorter than the gap between two requests.
constexpr int kSpins = 2000;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadTeam::ThreadTeam(int num_threads) : num_threads_(num_threads) {
  const absl::Status status = AddThreads(threads_, num_threads - 1, [this](int i) { Work(i + 1); });
  if (status.ok()) return;
  Stop();
  Throw(status);
}

ThreadTeam::~ThreadTeam() { Stop(); }

void ThreadTeam::Stop() {
  {
    MutexLock lock(mu_);
    stopping_.store(true, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadTeam::Run(void (*task)(void*, int), void* context) {
  task_ = task;
  context_ = context;
  pending_.store(num_threads_ - 1, std::memory_order_relaxed);
  bool sleeping;
  {
    MutexLock lock(mu_);
    generation_.fetch_add(1, std::memory_order_release);
    sleeping = sleepers_ > 0;
  }
  if (sleeping) wake_.NotifyAll();
  task(context, 0);
  for (int spins = 0; pending_.load(std::memory_order_acquire) != 0; ++spins) {
    // Workers are computing: give the core away if there are more threads than cores.
    if (spins < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadTeam::Work(int worker) {
  std::uint64_t seen = 0;
  while (true) {
    int spins = 0;
    while (generation_.load(std::memory_order_acquire) == seen && spins < kSpins) {
      Pause();
      ++spins;
    }
    if (generation_.load(std::memory_order_acquire) == seen) {
      MutexLock lock(mu_);
      ++sleepers_;
      while (generation_.load(std::memory_order_acquire) == seen) wake_.Wait(mu_);
      --sleepers_;
    }
    ++seen;
    if (stopping_.load(std::memory_order_relaxed)) return;
    task_(context_, worker);
    pending_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace siglip
