#pragma once

// Threads for work on requests that would hold up the threads that serve connections. What takes
// longer has threads of its own: a text of megabytes takes a minute, and pictures that are only
// unpacked do not wait for it.

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "serving/request.h"

namespace siglip {

// How long work takes that is done before a request goes on.
enum class WorkLoad {
  kNone,      // less than a change of threads
  kBytes,     // some milliseconds a megabyte: base64, hashes
  kSlow,      // up to some hundred milliseconds
  kVerySlow,  // seconds; one request at a time, as such work takes memory too
};

// Of work whose time is that of base64 or hashes.
WorkLoad LoadOfBytes(std::size_t bytes);

// Thread-safe.
class WorkLanes {
 public:
  using Work = std::function<void(std::unique_ptr<InferRequest>)>;
  using RefuseWork = std::function<void(std::unique_ptr<InferRequest>, const absl::Status&)>;

  // `threads` for each load but the slowest. Throws std::system_error if the system gives no more
  // threads. `clock` is borrowed.
  WorkLanes(const Clock& clock, int threads);
  // Refuses what waits, and waits for what runs.
  ~WorkLanes();
  WorkLanes(const WorkLanes&) = delete;
  WorkLanes& operator=(const WorkLanes&) = delete;

  // Calls one of the two with the request: `work`, at once for kNone and else on a thread of the
  // load's; or `refuse` if by then nobody waits for the answer.
  void Run(WorkLoad load, std::unique_ptr<InferRequest> request, Work work, RefuseWork refuse);

 private:
  struct Waiting {
    std::unique_ptr<InferRequest> request;
    Work work;
    RefuseWork refuse;
  };
  struct Lane {
    std::deque<Waiting> waiting;  // guarded by mu_
    CondVar comes;
  };

  Lane& LaneOf(WorkLoad load);
  void Serve(Lane& lane);
  // Rounds of the threads' lives; false at the end.
  bool ServeNext(Lane& lane);
  // Those whose clients have gone leave at once, however long the ones before them take.
  bool RefuseGone();
  // Into `gone`, which outlives the lock: requests that are dropped answer. Where memory runs out
  // on the way, what is taken is the beginning.
  void TakeGone(std::vector<std::pair<Waiting, absl::Status>>& gone) SIGLIP_REQUIRES(mu_);
  void Stop();

  const Clock& clock_;
  Mutex mu_;
  CondVar waits_;  // for the thread that refuses: something waits, or the end is near
  bool stopping_ SIGLIP_GUARDED_BY(mu_) = false;
  std::size_t num_waiting_ SIGLIP_GUARDED_BY(mu_) = 0;
  Lane bytes_, slow_, very_slow_;
  std::vector<std::thread> threads_;
};

}  // namespace siglip
