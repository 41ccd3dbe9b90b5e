#pragma once

// The queue before one model's step, and the threads that take batches from it. Requests are never
// split: a batch is made of whole ones. What a batch holds is decided by TakeBatch alone, from the
// queue and the time it is told, so that every rule is tested without threads or sleeping.
//
// A batch goes out when a preferred size or max_batch_size is reached, when it can not grow, or
// when its oldest request has waited max_queue_delay. Without dynamic_batching every request goes
// alone.
//
// A request leaves the queue unrun when its time-out passes, when its client waits no longer
// (gRPC's deadline), or when its client has gone. The client's own time-out counts from its arrival
// at the service, and where the queue's policy allows it to override; without dynamic_batching,
// always.

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/thread_pool.h"
#include "serving/batch.h"
#include "serving/budget.h"
#include "serving/model_config.h"
#include "serving/scheduler.h"
#include "serving/statistics_recorder.h"
#include "serving/step.h"

namespace siglip {

// Thread-safe.
class Batcher final : public Scheduler {
 public:
  struct Parts {
    std::shared_ptr<const ModelConfig> config;  // checked and completed: dims are fixed
    std::shared_ptr<Step> step;
    const Clock* clock = nullptr;              // borrowed
    StatisticsRecorder* statistics = nullptr;  // borrowed
    std::shared_ptr<Budget> budget = nullptr;  // of outputs in flight; may be null
    // Sum of Step::EstimateCost of what runs at a time; a request that is larger runs alone.
    std::int64_t running_cost_bytes = std::int64_t{1} << 30;
    // See BatchContext. Called by any instance's thread.
    std::function<void(const absl::Status&)> on_lost = {};
  };
  // Beside the instances': the one that refuses, and the one that judges.
  static constexpr int kOtherThreads = 2;

  explicit Batcher(Parts parts);
  ~Batcher() override;

  // Starts a thread per instance, one that refuses expired requests, and those whose clients have
  // gone, while all of them work, and one that judges what may take a while. Called once.
  // ResourceExhausted: no more threads.
  absl::Status Start(int instances);

  void Enqueue(std::unique_ptr<InferRequest> request) override;
  void Stop() override;

  struct Taken {
    std::vector<QueuedRequest> batch;  // to be run, then told to FinishBatch
    std::vector<std::pair<QueuedRequest, absl::Status>> refused;
    // When the answer changes without any request coming or batch ending.
    std::optional<std::int64_t> wake_ns;
    std::int64_t cost_bytes = 0;
  };
  // What a free instance does at `now_ns`. For tests and the threads.
  Taken TakeBatch(std::int64_t now_ns);
  void FinishBatch(std::int64_t cost_bytes);
  void Execute(Taken taken);

 private:
  struct Level {
    std::deque<QueuedRequest> fresh;
    std::deque<QueuedRequest> delayed;  // expired under DELAY: after the fresh ones
    std::size_t size() const { return fresh.size() + delayed.size(); }
  };
  struct Candidates;

  // Whether the request is judged by estimator_'s thread.
  bool GoesToEstimator(const QueuedRequest& queued);
  void LeaveEstimator();
  // Judges, and queues or refuses.
  void Admit(QueuedRequest queued);
  absl::Status Accept(QueuedRequest& queued, Taken& gone);
  // OK while somebody waits for the request, and this for requests.
  absl::Status WhileWaiting(const QueuedRequest& queued);
  std::uint32_t LevelOf(const InferRequest& request) const;
  const QueuePolicy& PolicyOf(std::uint32_t level) const;
  void SetEnds(QueuedRequest& queued) const;
  static void DropCancelled(std::deque<QueuedRequest>& queue, Taken& taken);
  // Into `taken`, which outlives the lock: a request that is dropped answers, and whoever comes in
  // its place may come here. Where memory runs out on the way, what is taken is the beginning.
  void TakeBatchLocked(std::int64_t now_ns, Taken& taken) SIGLIP_REQUIRES(mu_);
  void ChooseBatch(std::int64_t now_ns, Taken& taken) SIGLIP_REQUIRES(mu_);
  void TakeGone(std::int64_t now_ns, Taken& taken) SIGLIP_REQUIRES(mu_);
  void DropExpired(std::int64_t now_ns, Taken& taken) SIGLIP_REQUIRES(mu_);
  // Returns when the next of them expires.
  std::int64_t DropExpiredOf(std::uint32_t number, Level& level, std::int64_t now_ns, Taken& taken)
      SIGLIP_REQUIRES(mu_);
  Candidates Survey(Taken& taken) SIGLIP_REQUIRES(mu_);
  bool SurveyQueue(std::deque<QueuedRequest>& queue, Candidates& found, Taken& taken)
      SIGLIP_REQUIRES(mu_);
  void TakeFirst(std::size_t count, Taken& taken) SIGLIP_REQUIRES(mu_);
  std::optional<std::int64_t> NextDeadline() const SIGLIP_REQUIRES(mu_);
  // Rounds of the threads' lives; false at the end.
  bool RunNext();
  bool RefuseExpired();
  void WaitUntil(CondVar& condition, std::optional<std::int64_t> wake_ns) SIGLIP_REQUIRES(mu_);
  BatchContext context() { return {*config_, *step_, clock_, statistics_, on_lost_}; }

  const std::shared_ptr<const ModelConfig> config_;
  const std::shared_ptr<Step> step_;
  const Clock& clock_;
  StatisticsRecorder& statistics_;
  const std::shared_ptr<Budget> budget_;
  const std::int64_t running_cost_limit_;
  const std::function<void(const absl::Status&)> on_lost_;
  const DynamicBatching rules_;
  const bool batching_;
  const std::int64_t max_rows_;

  Mutex mu_;
  CondVar work_;       // for instances: a request came, a batch ended, or the end is near
  CondVar deadlines_;  // for the thread that refuses
  bool stopping_ SIGLIP_GUARDED_BY(mu_) = false;
  std::map<std::uint32_t, Level> levels_ SIGLIP_GUARDED_BY(mu_);  // 1 is the highest
  // No queued request expires before; INT64_MAX: none does.
  std::int64_t next_deadline_ns_ SIGLIP_GUARDED_BY(mu_) = INT64_MAX;
  int running_batches_ SIGLIP_GUARDED_BY(mu_) = 0;
  std::int64_t running_cost_ SIGLIP_GUARDED_BY(mu_) = 0;
  std::vector<std::thread> threads_;
  // Judges what may take a while, off the threads that serve connections. Null before Start: a
  // request that needed a thread would fail where the system gives none.
  std::unique_ptr<ThreadPool> estimator_;
  // Requests there, or on their way. Under preserve_ordering later ones follow them.
  int estimating_ SIGLIP_GUARDED_BY(mu_) = 0;
};

}  // namespace siglip
