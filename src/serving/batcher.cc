#include "serving/batcher.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/no_memory.h"
#include "base/status_macros.h"
#include "serving/overload.h"
#include "serving/refusals.h"
#include "serving/validate.h"

namespace siglip {
namespace {

// Takes a request out, if there is memory for that; where the queue goes on.
std::deque<QueuedRequest>::iterator Drop(std::deque<QueuedRequest>& queue,
                                         std::deque<QueuedRequest>::iterator it,
                                         absl::Status status, Batcher::Taken& taken) {
  taken.refused.emplace_back(std::move(*it), std::move(status));
  return queue.erase(it);
}

}  // namespace

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
  if (rules_.priority_levels == 0) levels_[0];
  for (std::uint32_t level = 1; level <= rules_.priority_levels; ++level) levels_[level];
}

Batcher::~Batcher() {
  Stop();
  estimator_.reset();  // what waits there is refused
}

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
    RefuseQueued(context(), std::move(queued), StoppedRefusal(config_->name));
  }
}

absl::Status Batcher::Start(int instances) {
  SIGLIP_RETURN_IF_ERROR(
      AddThreads(threads_, instances, [this](int) { Repeat([this] { return RunNext(); }); }));
  SIGLIP_RETURN_IF_ERROR(
      AddThreads(threads_, 1, [this](int) { Repeat([this] { return RefuseExpired(); }); }));
  try {
    estimator_ = std::make_unique<ThreadPool>(1);
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(error.what());
  }
  return absl::OkStatus();
}

std::uint32_t Batcher::LevelOf(const InferRequest& request) const {
  if (rules_.priority_levels == 0) return 0;
  const bool given = request.priority >= 1 && request.priority <= rules_.priority_levels;
  // The default is checked at load.
  return given ? static_cast<std::uint32_t>(request.priority) : rules_.default_priority_level;
}

const QueuePolicy& Batcher::PolicyOf(std::uint32_t level) const {
  const auto own = rules_.priority_queue_policy.find(level);
  return own == rules_.priority_queue_policy.end() ? rules_.default_queue_policy : own->second;
}

void Batcher::SetEnds(QueuedRequest& queued) const {
  const InferRequest& request = *queued.request;
  const QueuePolicy& policy = PolicyOf(LevelOf(request));
  const std::int64_t queued_ns = request.times.queue_start_ns;
  const auto set = [&queued](std::int64_t from_ns, std::uint64_t timeout_us) {
    if (timeout_us == 0) return;
    queued.deadline_ns =
        std::min(queued.deadline_ns.value_or(INT64_MAX), TimeoutEnd(from_ns, timeout_us));
  };
  set(queued_ns, policy.default_timeout_us);
  if (policy.allow_timeout_override) {
    set(request.accepted_ns != 0 ? request.accepted_ns : queued_ns, request.timeout_us);
  }
  queued.end_ns = ClientEnd(*queued.request);
  if (policy.timeout_action == QueuePolicy::TimeoutAction::kReject) {
    queued.end_ns = std::min(queued.end_ns, queued.deadline_ns.value_or(INT64_MAX));
  }
  for (Item& item : queued.items) {
    item.end_ns = queued.end_ns;
    item.is_cancelled = &queued.request->is_cancelled;
  }
}

void Batcher::DropCancelled(std::deque<QueuedRequest>& queue, Taken& taken) {
  for (auto it = queue.begin(); it != queue.end();) {
    it = IsCancelled(*it->request) ? Drop(queue, it, CancelledRefusal(), taken) : std::next(it);
  }
}

absl::Status Batcher::Accept(QueuedRequest& queued, Taken& gone) {
  SIGLIP_ASSIGN_OR_RETURN(queued.cost_bytes, EstimateCost(*step_, queued.items));
  if (budget_ != nullptr) {
    const std::int64_t bytes = OutputBytes(*config_, queued.rows());
    queued.hold = budget_->TryHold(bytes);
    if (queued.hold == nullptr) {
      return OverloadedError(absl::StrCat("Exceeds the memory for requests in flight: model '",
                                          config_->name, "' needs ", bytes,
                                          " bytes, the limit of all is ", budget_->limit()));
    }
  }
  const std::uint32_t number = LevelOf(*queued.request);
  const std::size_t max_size = PolicyOf(number).max_queue_size;
  const std::int64_t end_ns =
      std::min(queued.deadline_ns.value_or(INT64_MAX), ClientEnd(*queued.request));
  MutexLock lock(mu_);
  if (stopping_) return StoppedRefusal(config_->name);
  Level& level = levels_.at(number);
  if (max_size != 0 && level.size() >= max_size) {
    // Those who have gone keep nobody out.
    DropCancelled(level.fresh, gone);
    DropCancelled(level.delayed, gone);
    if (level.size() >= max_size) return OverloadedError("Exceeds maximum queue size");
  }
  next_deadline_ns_ = std::min(next_deadline_ns_, end_ns);
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
  SetEnds(queued);
  if (!GoesToEstimator(queued)) return Admit(std::move(queued));
  try {
    // std::function must be copyable.
    auto waiting = std::make_shared<QueuedRequest>(std::move(queued));
    estimator_->Submit([this, waiting] {
      const absl::Cleanup leave = [this] { LeaveEstimator(); };
      const absl::Status status = WhileWaiting(*waiting);
      if (status.ok()) {
        Admit(std::move(*waiting));
      } else {
        RefuseQueued(context(), std::move(*waiting), status);
      }
    });
  } catch (const std::bad_alloc&) {
    LeaveEstimator();
    throw;
  }
}

void Batcher::LeaveEstimator() {
  MutexLock lock(mu_);
  --estimating_;
}

bool Batcher::GoesToEstimator(const QueuedRequest& queued) {
  if (estimator_ == nullptr) return false;
  const bool may_wait =
      std::any_of(queued.items.begin(), queued.items.end(),
                  [this](const Item& item) { return step_->EstimateMayWait(item); });
  if (!may_wait && !rules_.preserve_ordering) return false;
  MutexLock lock(mu_);
  if (!may_wait && estimating_ == 0) return false;
  ++estimating_;
  return true;
}

absl::Status Batcher::WhileWaiting(const QueuedRequest& queued) {
  SIGLIP_RETURN_IF_ERROR(GoneStatus(*queued.request, queued.end_ns, clock_.NowNs()));
  MutexLock lock(mu_);
  return stopping_ ? StoppedRefusal(config_->name) : absl::OkStatus();
}

void Batcher::Admit(QueuedRequest queued) {
  const bool expires = queued.deadline_ns || ClientEnd(*queued.request) != INT64_MAX;
  Taken gone;
  absl::Status status;
  try {
    status = Accept(queued, gone);
  } catch (const std::bad_alloc&) {  // what has gone is answered all the same
    status = NoMemory("queue");
  }
  Execute(std::move(gone));
  if (!status.ok()) {
    // A full queue takes nothing; an item that the step judged was at its model.
    queued.request->at_model = !absl::IsUnavailable(status);
    RefuseQueued(context(), std::move(queued), status);
    return;
  }
  work_.NotifyOne();
  if (expires) deadlines_.NotifyOne();
}

void Batcher::DropExpired(std::int64_t now_ns, Taken& taken) {
  if (now_ns < next_deadline_ns_) return;
  std::int64_t next_ns = INT64_MAX;
  for (auto& [number, level] : levels_) {
    next_ns = std::min(next_ns, DropExpiredOf(number, level, now_ns, taken));
  }
  next_deadline_ns_ = next_ns;
}

std::int64_t Batcher::DropExpiredOf(std::uint32_t number, Level& level, std::int64_t now_ns,
                                    Taken& taken) {
  const bool delays = PolicyOf(number).timeout_action == QueuePolicy::TimeoutAction::kDelay;
  std::int64_t next_ns = INT64_MAX;
  for (std::deque<QueuedRequest>* queue : {&level.delayed, &level.fresh}) {
    for (auto it = queue->begin(); it != queue->end();) {
      const std::int64_t client_end_ns = ClientEnd(*it->request);
      const bool expired = it->deadline_ns && now_ns >= *it->deadline_ns;
      if (now_ns >= client_end_ns) {
        it = Drop(*queue, it, DeadlineRefusal(), taken);
        continue;
      }
      if (expired && !delays) {
        it = Drop(*queue, it, TimeoutRefusal(), taken);
        continue;
      }
      next_ns = std::min(next_ns, client_end_ns);
      if (!expired) next_ns = std::min(next_ns, it->deadline_ns.value_or(INT64_MAX));
      if (expired && queue == &level.fresh) {
        level.delayed.push_back(std::move(*it));
        it = queue->erase(it);
        continue;
      }
      ++it;
    }
  }
  return next_ns;
}

// Extends `found` by the queue's requests; false when the batch can not grow any more.
bool Batcher::SurveyQueue(std::deque<QueuedRequest>& queue, Candidates& found, Taken& taken) {
  for (auto it = queue.begin(); it != queue.end();) {
    if (IsCancelled(*it->request)) {
      it = Drop(queue, it, CancelledRefusal(), taken);
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
  taken.batch.reserve(count);
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
  if (next_deadline_ns_ == INT64_MAX) return std::nullopt;
  return next_deadline_ns_;
}

void Batcher::TakeBatchLocked(std::int64_t now_ns, Taken& taken) {
  try {
    ChooseBatch(now_ns, taken);
  } catch (const std::bad_alloc&) {
    if (taken.refused.empty()) throw;
  }
}

void Batcher::ChooseBatch(std::int64_t now_ns, Taken& taken) {
  DropExpired(now_ns, taken);
  taken.wake_ns = NextDeadline();
  // Order is kept by running one batch at a time.
  if (rules_.preserve_ordering && running_batches_ > 0) return;
  const Candidates found = Survey(taken);
  if (found.count == 0) return;
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
}

Batcher::Taken Batcher::TakeBatch(std::int64_t now_ns) {
  Taken taken;
  MutexLock lock(mu_);
  TakeBatchLocked(now_ns, taken);
  return taken;
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
  statistics_.AddPending(-static_cast<std::int64_t>(taken.refused.size() + taken.batch.size()));
  const absl::Cleanup finish = [this, runs = !taken.batch.empty(), cost_bytes = taken.cost_bytes] {
    if (runs) FinishBatch(cost_bytes);
  };
  for (auto& [queued, status] : taken.refused) RefuseQueued(context(), std::move(queued), status);
  if (!taken.batch.empty()) ExecuteBatch(context(), std::move(taken.batch));
}

void Batcher::WaitUntil(CondVar& condition, std::optional<std::int64_t> wake_ns) {
  if (!wake_ns) {
    condition.Wait(mu_);
    return;
  }
  condition.WaitFor(mu_,
                    std::chrono::nanoseconds(std::max<std::int64_t>(0, *wake_ns - clock_.NowNs())));
}

bool Batcher::RunNext() {
  Taken taken;
  {
    MutexLock lock(mu_);
    while (true) {
      if (stopping_) return false;
      TakeBatchLocked(clock_.NowNs(), taken);
      if (!taken.batch.empty() || !taken.refused.empty()) break;
      WaitUntil(work_, taken.wake_ns);
    }
  }
  // The notification of what stays queued may have been the one that woke this thread.
  work_.NotifyOne();
  Execute(std::move(taken));
  return true;
}

void Batcher::TakeGone(std::int64_t now_ns, Taken& taken) {
  try {
    DropExpired(now_ns, taken);
    for (auto& [number, level] : levels_) {
      DropCancelled(level.fresh, taken);
      DropCancelled(level.delayed, taken);
    }
  } catch (const std::bad_alloc&) {
    if (taken.refused.empty()) throw;
  }
}

bool Batcher::RefuseExpired() {
  Taken taken;
  {
    MutexLock lock(mu_);
    while (true) {
      if (stopping_) return false;
      const std::int64_t now_ns = clock_.NowNs();
      TakeGone(now_ns, taken);
      if (!taken.refused.empty()) break;
      WaitUntil(deadlines_, std::min(NextDeadline().value_or(INT64_MAX),
                                     now_ns + std::chrono::nanoseconds(kLookForGone).count()));
    }
  }
  Execute(std::move(taken));
  return true;
}

}  // namespace siglip
