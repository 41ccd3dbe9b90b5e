#include "server/slow_readers.h"

#include <algorithm>
#include <utility>

#include "base/thread_pool.h"
#include "server/grpc_answer.h"

namespace siglip {

SlowReaders::SlowReaders(const GrpcLimits& limits)
    : timeout_(limits.answer_timeout_ms),
      bytes_per_s_(limits.answer_bytes_per_s),
      follower_([this] { Repeat([this] { return Follow(); }); }) {}

SlowReaders::~SlowReaders() {
  {
    MutexLock lock(mu_);
    ending_ = true;
  }
  changed_.NotifyAll();
  follower_.join();
}

SlowReaders::Id SlowReaders::Begin(grpc::CallbackServerContext& context, std::size_t bytes,
                                   std::shared_ptr<const SentBytes> sent) {
  MutexLock lock(mu_);
  answers_.emplace(++last_id_,
                   Answer{&context, bytes, std::move(sent), std::chrono::steady_clock::now()});
  if (asleep_) changed_.NotifyAll();
  return last_id_;
}

void SlowReaders::End(Id id) {
  MutexLock lock(mu_);
  answers_.erase(id);
  if (std::this_thread::get_id() == follower_.get_id()) return;
  while (cancelling_ == id) cancelled_.Wait(mu_);
}

bool SlowReaders::IsLate(const Answer& answer, std::chrono::steady_clock::time_point now) const {
  const std::size_t wanted =
      std::min(answer.bytes, answer.sent->load(std::memory_order_relaxed) + kAnswerPieceBytes);
  return now - answer.start > TransferTime(timeout_, wanted, bytes_per_s_);
}

bool SlowReaders::Follow() {
  const auto interval = std::max(timeout_ / 8, std::chrono::milliseconds(1));
  std::vector<Id> late;
  {
    MutexLock lock(mu_);
    asleep_ = true;
    while (answers_.empty() && !ending_) changed_.Wait(mu_);
    asleep_ = false;
    if (!ending_) changed_.WaitFor(mu_, interval);
    if (ending_) return false;
    const auto now = std::chrono::steady_clock::now();
    for (const auto& [id, answer] : answers_) {
      if (IsLate(answer, now)) late.push_back(id);
    }
  }
  for (const Id id : late) Cancel(id);
  return true;
}

// Without the lock: what TryCancel sets going may run here, End among it.
void SlowReaders::Cancel(Id id) {
  grpc::CallbackServerContext* context = nullptr;
  {
    MutexLock lock(mu_);
    const auto found = answers_.find(id);
    if (found == answers_.end()) return;
    context = found->second.context;
    answers_.erase(found);
    cancelling_ = id;
  }
  context->TryCancel();
  MutexLock lock(mu_);
  cancelling_ = 0;
  cancelled_.NotifyAll();
}

}  // namespace siglip
