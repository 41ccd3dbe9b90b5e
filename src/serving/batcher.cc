#include "serving/batcher.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "serving/validate.h"

namespace siglip {

// The first requests of the queue that fit into one batch.
struct Batcher::Candidates {
  std::size_t count = 0;
  std::int64_t rows = 0;
  std::int64_t cost = 0;
  std::size_t preferred_count = 0;  // of them, up to the largest preferred size
  bool can_grow = true;
  std::int64_t oldest_ns = 0;
};

Batcher::Batcher(Parts parts)
    : config_(std::move(parts.config)),
      step_(std::move(parts.step)),
      clock_(*parts.clock),
      statistics_(*parts.statistics),
      budget_(std::move(parts.budget)),
      running_cost_limit_(parts.running_cost_bytes),
      on_lost_(std::move(parts.on_lost)),
      rules_(config_->dynamic_batching.value_or(DynamicBatching{})),
      batching_(config_->dynamic_batching.has_value()),
      max_rows_(std::max(1, config_->max_batch_size)) {
  MutexLock lock(mu_);
  const auto add = [this](std::uint32_t level) {
    const auto own = rules_.priority_queue_policy.find(level);
    const QueuePolicy& policy =
        own == rules_.priority_queue_policy.end() ? rules_.default_queue_policy : own->second;
    has_timeouts_ |= policy.default_timeout_us > 0;
    levels_[level].policy = policy;
  };
  if (rules_.priority_levels == 0) add(0);
  for (std::uint32_t level = 1; level <= rules_.priority_levels; ++level) add(level);
}

Batcher::~Batcher() { Stop(); }

void Batcher::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  work_.NotifyAll();
  deadlines_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  std::vector<QueuedRequest> left;
  {
    MutexLock lock(mu_);
    for (auto& [level, queues] : levels_) {
      std::move(queues.fresh.begin(), queues.fresh.end(), std::back_inserter(left));
      std::move(queues.delayed.begin(), queues.delayed.end(), std::back_inserter(left));
      queues.fresh.clear();
      queues.delayed.clear();
    }
  }
  for (QueuedRequest& queued : left) {
    statistics_.AddPending(-1);
    RefuseQueued(context(), std::move(queued),
                 absl::UnavailableError(
                     absl::StrCat("Server is stopping, scheduler for model '", config_->name,
                                  "' has stopped accepting new inference requests")));
  }
}

void Batcher::Start(int instances) {
  for (int i = 0; i < instances; ++i) threads_.emplace_back([this] { Work(); });
  if (has_timeouts_) threads_.emplace_back([this] { RefuseExpired(); });
}

absl::Status Batcher::StoppedError() const {
  return absl::UnavailableError(absl::StrCat("Server is stopping, scheduler for model '",
                                             config_->name,
                                             "' has stopped accepting new inference requests"));
}

Batcher::Level& Batcher::LevelOf(const InferRequest& request) {
  if (rules_.priority_levels == 0) return levels_.begin()->second;
  const bool given = request.priority >= 1 && request.priority <= rules_.priority_levels;
  const std::uint32_t level =
      given ? static_cast<std::uint32_t>(request.priority) : rules_.default_priority_level;
  return levels_.at(level);  // the default is checked at load
}

absl::Status Batcher::Accept(QueuedRequest& queued) {
  SIGLIP_ASSIGN_OR_RETURN(queued.cost_bytes, EstimateCost(*step_, queued.items));
  if (budget_ != nullptr) {
    const std::int64_t bytes = OutputBytes(*config_, queued.rows());
    queued.hold = budget_->TryHold(bytes);
    if (queued.hold == nullptr) {
      return absl::UnavailableError(
          absl::StrCat("Exceeds the memory for requests in flight: model '", config_->name,
                       "' needs ", bytes, " bytes, the limit of all is ", budget_->limit_bytes()));
    }
  }
  const InferRequest& request = *queued.request;
  MutexLock lock(mu_);
  if (stopping_) return StoppedError();
  Level& level = LevelOf(request);
  if (level.policy.max_queue_size != 0 && level.size() >= level.policy.max_queue_size) {
    return absl::UnavailableError("Exceeds maximum queue size");
  }
  // The request's own timeout counts only if allowed and shorter than the default (Triton's rule).
  std::uint64_t timeout_us = level.policy.default_timeout_us;
  if (level.policy.allow_timeout_override && request.timeout_us != 0) {
    timeout_us = std::min(timeout_us, request.timeout_us);
  }
  if (timeout_us != 0) {
    queued.deadline_ns =
        request.times.queue_start_ns +
        static_cast<std::int64_t>(std::min<std::uint64_t>(timeout_us, INT64_MAX / 2000)) * 1000;
  }
  level.fresh.push_back(std::move(queued));
  statistics_.AddPending(1);
  return absl::OkStatus();
}

void Batcher::Enqueue(std::unique_ptr<InferRequest> request) {
  request->times.queue_start_ns = clock_.NowNs();
  if (request->times.arrival_ns == 0) request->times.arrival_ns = request->times.queue_start_ns;
  QueuedRequest queued;
  queued.items = MakeItems(*config_, *request);
  queued.request = std::move(request);
  if (absl::Status status = Accept(queued); !status.ok()) {
    RefuseQueued(context(), std::move(queued), status);
    return;
  }
  work_.NotifyOne();
  if (has_timeouts_) deadlines_.NotifyOne();
}

void Batcher::DropExpired(std::int64_t now_ns, Taken& taken) {
  if (!has_timeouts_) return;
  for (auto& [number, level] : levels_) {
    std::deque<QueuedRequest> kept;
    for (QueuedRequest& queued : level.fresh) {
      if (!queued.deadline_ns || now_ns < *queued.deadline_ns) {
        kept.push_back(std::move(queued));
      } else if (level.policy.timeout_action == QueuePolicy::TimeoutAction::kDelay) {
        level.delayed.push_back(std::move(queued));
      } else {
        taken.refused.emplace_back(std::move(queued),
                                   absl::UnavailableError("Request timeout expired"));
      }
    }
    level.fresh = std::move(kept);
  }
}

// Extends `found` by the queue's requests; false when the batch can not grow any more.
bool Batcher::SurveyQueue(std::deque<QueuedRequest>& queue, Candidates& found, Taken& taken) {
  for (auto it = queue.begin(); it != queue.end();) {
    if (it->request->is_cancelled && it->request->is_cancelled()) {
      taken.refused.emplace_back(std::move(*it), absl::CancelledError("Request was cancelled"));
      it = queue.erase(it);
      continue;
    }
    const std::int64_t cost_before = running_cost_ + found.cost;
    const bool too_costly = cost_before > 0 && it->cost_bytes > running_cost_limit_ - cost_before;
    const bool too_many = found.count > 0 && (!batching_ || found.rows + it->rows() > max_rows_);
    if (too_costly || too_many) return false;
    const std::int64_t queued_ns = it->request->times.queue_start_ns;
    found.oldest_ns = found.count == 0 ? queued_ns : std::min(found.oldest_ns, queued_ns);
    ++found.count;
    found.rows += it->rows();
    found.cost += it->cost_bytes;
    const auto& sizes = rules_.preferred_batch_sizes;
    if (std::find(sizes.begin(), sizes.end(), found.rows) != sizes.end()) {
      found.preferred_count = found.count;
    }
    if (!batching_ || found.rows >= max_rows_) return false;
    ++it;
  }
  return true;
}

Batcher::Candidates Batcher::Survey(Taken& taken) {
  Candidates found;
  for (auto& [number, level] : levels_) {
    found.can_grow =
        SurveyQueue(level.fresh, found, taken) && SurveyQueue(level.delayed, found, taken);
    if (!found.can_grow) break;
  }
  return found;
}

void Batcher::TakeFirst(std::size_t count, Taken& taken) {
  for (auto& [number, level] : levels_) {
    for (std::deque<QueuedRequest>* queue : {&level.fresh, &level.delayed}) {
      while (taken.batch.size() < count && !queue->empty()) {
        taken.cost_bytes += queue->front().cost_bytes;
        taken.batch.push_back(std::move(queue->front()));
        queue->pop_front();
      }
    }
  }
  ++running_batches_;
  running_cost_ += taken.cost_bytes;
}

std::optional<std::int64_t> Batcher::NextDeadline() const {
  std::optional<std::int64_t> next;
  if (!has_timeouts_) return next;
  for (const auto& [number, level] : levels_) {
    for (const QueuedRequest& queued : level.fresh) {
      if (queued.deadline_ns) next = std::min(next.value_or(INT64_MAX), *queued.deadline_ns);
    }
  }
  return next;
}

Batcher::Taken Batcher::TakeBatchLocked(std::int64_t now_ns) {
  Taken taken;
  DropExpired(now_ns, taken);
  taken.wake_ns = NextDeadline();
  // Order is kept by running one batch at a time.
  if (rules_.preserve_ordering && running_batches_ > 0) return taken;
  const Candidates found = Survey(taken);
  if (found.count == 0) return taken;
  const auto delay_ns = static_cast<std::int64_t>(rules_.max_queue_delay_us) * 1000;
  const std::int64_t due_ns = found.oldest_ns + delay_ns;
  const bool due = delay_ns == 0 || now_ns >= due_ns;
  if (!due && found.preferred_count > 0) {
    TakeFirst(found.preferred_count, taken);
  } else if (due || !found.can_grow) {
    TakeFirst(found.count, taken);
  } else {
    taken.wake_ns = std::min(taken.wake_ns.value_or(INT64_MAX), due_ns);
  }
  return taken;
}

Batcher::Taken Batcher::TakeBatch(std::int64_t now_ns) {
  MutexLock lock(mu_);
  return TakeBatchLocked(now_ns);
}

void Batcher::FinishBatch(std::int64_t cost_bytes) {
  {
    MutexLock lock(mu_);
    --running_batches_;
    running_cost_ -= cost_bytes;
  }
  work_.NotifyAll();
}

void Batcher::Execute(Taken taken) {
  for (auto& [queued, status] : taken.refused) {
    statistics_.AddPending(-1);
    RefuseQueued(context(), std::move(queued), status);
  }
  if (taken.batch.empty()) return;
  statistics_.AddPending(-static_cast<std::int64_t>(taken.batch.size()));
  ExecuteBatch(context(), std::move(taken.batch));
  FinishBatch(taken.cost_bytes);
}

void Batcher::WaitUntil(CondVar& condition, std::optional<std::int64_t> wake_ns) {
  if (!wake_ns) {
    condition.Wait(mu_);
    return;
  }
  condition.WaitFor(mu_,
                    std::chrono::nanoseconds(std::max<std::int64_t>(0, *wake_ns - clock_.NowNs())));
}

void Batcher::Work() {
  while (true) {
    Taken taken;
    {
      MutexLock lock(mu_);
      while (true) {
        if (stopping_) return;
        taken = TakeBatchLocked(clock_.NowNs());
        if (!taken.batch.empty() || !taken.refused.empty()) break;
        WaitUntil(work_, taken.wake_ns);
      }
    }
    // The notification of what stays queued may have been the one that woke this thread.
    work_.NotifyOne();
    Execute(std::move(taken));
  }
}

void Batcher::RefuseExpired() {
  while (true) {
    Taken taken;
    {
      MutexLock lock(mu_);
      while (true) {
        if (stopping_) return;
        DropExpired(clock_.NowNs(), taken);
        if (!taken.refused.empty()) break;
        WaitUntil(deadlines_, NextDeadline());
      }
    }
    Execute(std::move(taken));
  }
}

}  // namespace siglip
