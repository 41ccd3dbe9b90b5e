#include "serving/work_lanes.h"

#include <new>
#include <system_error>
#include <utility>

#include "base/thread_pool.h"
#include "serving/refusals.h"

namespace siglip {
namespace {

// Below this the work (some microseconds per 10 kB of base64 or SHA-256) is less than a change of
// threads costs in the worst case.
constexpr std::size_t kInlineBytes = 32 * 1024;

}  // namespace

WorkLoad LoadOfBytes(std::size_t bytes) {
  return bytes <= kInlineBytes ? WorkLoad::kNone : WorkLoad::kBytes;
}

WorkLanes::WorkLanes(const Clock& clock, int threads) : clock_(clock) {
  absl::Status status = AddThreads(threads_, threads, [this](int) { Serve(bytes_); });
  if (status.ok()) status = AddThreads(threads_, threads, [this](int) { Serve(slow_); });
  if (status.ok()) status = AddThreads(threads_, 1, [this](int) { Serve(very_slow_); });
  if (status.ok()) {
    status = AddThreads(threads_, 1, [this](int) { Repeat([this] { return RefuseGone(); }); });
  }
  if (status.ok()) return;
  Stop();
  throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again),
                          std::string(status.message()));
}

WorkLanes::~WorkLanes() {
  Stop();
  for (Lane* lane : {&bytes_, &slow_, &very_slow_}) {
    for (Waiting& waiting : lane->waiting) {
      const absl::Status status = StoppedRefusal(waiting.request->model_name);
      waiting.refuse(std::move(waiting.request), status);
    }
  }
}

void WorkLanes::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  for (Lane* lane : {&bytes_, &slow_, &very_slow_}) lane->comes.NotifyAll();
  waits_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

WorkLanes::Lane& WorkLanes::LaneOf(WorkLoad load) {
  return load == WorkLoad::kBytes ? bytes_ : load == WorkLoad::kSlow ? slow_ : very_slow_;
}

void WorkLanes::Run(WorkLoad load, std::unique_ptr<InferRequest> request, Work work,
                    RefuseWork refuse) {
  if (load == WorkLoad::kNone) return work(std::move(request));
  Lane& lane = LaneOf(load);
  Waiting next{std::move(request), std::move(work), std::move(refuse)};
  {
    MutexLock lock(mu_);
    lane.waiting.push_back(std::move(next));
    ++num_waiting_;
  }
  lane.comes.NotifyOne();
  waits_.NotifyOne();
}

void WorkLanes::Serve(Lane& lane) {
  Repeat([&] { return ServeNext(lane); });
}

bool WorkLanes::ServeNext(Lane& lane) {
  Waiting next;
  {
    MutexLock lock(mu_);
    while (lane.waiting.empty() && !stopping_) lane.comes.Wait(mu_);
    if (stopping_) return false;
    next = std::move(lane.waiting.front());
    lane.waiting.pop_front();
    --num_waiting_;
  }
  const absl::Status status = WaitingStatus(*next.request, clock_.NowNs());
  if (status.ok()) {
    next.work(std::move(next.request));
  } else {
    next.refuse(std::move(next.request), status);
  }
  return true;
}

void WorkLanes::TakeGone(std::vector<std::pair<Waiting, absl::Status>>& gone) {
  const std::int64_t now_ns = clock_.NowNs();
  for (Lane* lane : {&bytes_, &slow_, &very_slow_}) {
    for (auto it = lane->waiting.begin(); it != lane->waiting.end();) {
      absl::Status status = WaitingStatus(*it->request, now_ns);
      if (status.ok()) {
        ++it;
        continue;
      }
      gone.emplace_back(std::move(*it), std::move(status));
      it = lane->waiting.erase(it);
      --num_waiting_;
    }
  }
}

bool WorkLanes::RefuseGone() {
  std::vector<std::pair<Waiting, absl::Status>> gone;
  {
    MutexLock lock(mu_);
    while (num_waiting_ == 0 && !stopping_) waits_.Wait(mu_);
    if (!stopping_) waits_.WaitFor(mu_, kLookForGone);
    if (stopping_) return false;
    try {
      TakeGone(gone);
    } catch (const std::bad_alloc&) {
      if (gone.empty()) throw;
    }
  }
  for (auto& [waiting, status] : gone) waiting.refuse(std::move(waiting.request), status);
  return true;
}

}  // namespace siglip
