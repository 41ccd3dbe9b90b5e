#pragma once

// Two kinds of threads: a pool that runs queued tasks (decoding images), and a team that splits one
// loop over fixed workers with little latency (the kernels).

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"

namespace siglip {

// Adds `count` threads; each calls work(i) with its number among them. ResourceExhausted if the
// system gives fewer: those that run already stay in `threads`.
absl::Status AddThreads(std::vector<std::thread>& threads, int count,
                        const std::function<void(int)>& work);

// What a thread does all its life: calls `round` until it returns false. Memory that runs out costs
// the round that it ran out in, and what that owned, not the process. Other exceptions go on.
void Repeat(const std::function<bool()>& round);

// Runs tasks in the order they were submitted, on `num_threads` threads. The destructor runs what
// is queued, then joins. Thread-safe. Tasks throw nothing but std::bad_alloc.
class ThreadPool {
 public:
  // Throws std::system_error if the system gives no more threads.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  void Submit(std::function<void()> task);
  int num_threads() const { return static_cast<int>(threads_.size()); }

 private:
  bool RunNext();
  void Stop();

  Mutex mu_;
  CondVar work_available_;
  std::deque<std::function<void()>> tasks_ SIGLIP_GUARDED_BY(mu_);
  bool stopping_ SIGLIP_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

// `num_threads` workers (the caller is one of them) that run the same function side by side.
// Workers spin for some microseconds between calls, then sleep. Run is called by one thread at a
// time.
class ThreadTeam {
 public:
  // Throws std::system_error if the system gives no more threads.
  explicit ThreadTeam(int num_threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls task(context, worker) once on each worker 0..num_threads-1 and returns when all are done.
  // Tasks must not throw.
  void Run(void (*task)(void* context, int worker), void* context);

  // body(worker) on each worker.
  template <class Body>
  void RunOnAll(Body&& body) {
    using B = std::remove_reference_t<Body>;
    Run([](void* context, int worker) { (*static_cast<B*>(context))(worker); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  void Work(int worker);
  void Stop();

  const int num_threads_;
  void (*task_)(void*, int) = nullptr;  // written before generation_ is released
  void* context_ = nullptr;             // likewise
  // generation_: release by Run, acquire by workers. pending_: release by workers, acquire by Run.
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<int> pending_{0};
  std::atomic<bool> stopping_{false};  // written under mu_ before generation_ is released
  Mutex mu_;
  CondVar wake_;
  int sleepers_ SIGLIP_GUARDED_BY(mu_) = 0;
  std::vector<std::thread> threads_;
};

}  // namespace siglip
