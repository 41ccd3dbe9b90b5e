#include "workers/decode_workers.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <optional>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "workers/decode_worker.h"
#include "workers/sandbox.h"
#include "workers/shared_arena.h"

namespace siglip {
namespace {

using std::chrono::nanoseconds;

// The payload's name in include/siglip/siglip.h, which this folder does not know.
constexpr char kRefusedPayload[] = "siglip.image_refused";

// From exec to the first message: 10 ms on an idle machine.
constexpr std::chrono::seconds kStartTimeout{20};
// A head is read in microseconds.
constexpr std::chrono::seconds kHeaderTimeout{2};
// After a start that failed, doubled each time up to the second. Of workers that failed one is
// tried at a time, so where none can start that is a start a second (0.04 CPU-seconds), whatever
// their number; once one starts, all are tried.
constexpr std::int64_t kFirstBackoffNs = 100'000'000;
constexpr std::int64_t kLastBackoffNs = 1'000'000'000;
// Workers that were dead before they were given the picture, one after the other.
constexpr int kMaxAttempts = 3;
// A cancelled client is looked for within this time.
constexpr nanoseconds kWaitSlice{100'000'000};
// One line for each period, with the number of those left out.
constexpr std::int64_t kLogPeriodNs = 1'000'000'000;
// A slot that does not start is chosen after all that do.
constexpr int kFailedCost = 1 << 20;

absl::Status WithReason(absl::Status status, const char* reason) {
  status.SetPayload(kRefusedPayload, absl::Cord(reason));
  return status;
}

absl::StatusCode CodeOf(ReplyCode code) {
  switch (code) {
    case ReplyCode::kOk:
      return absl::StatusCode::kOk;
    case ReplyCode::kInvalidArgument:
      return absl::StatusCode::kInvalidArgument;
    case ReplyCode::kResourceExhausted:
      return absl::StatusCode::kResourceExhausted;
    case ReplyCode::kInternal:
      break;
  }
  return absl::StatusCode::kInternal;
}

const char* ReasonOf(RefusedReason reason) {
  for (const auto& [known, name] : kRefusedReasonNames) {
    if (reason == known) return name;
  }
  return kRefusedReasonNames[0].name;
}

// What a reply says, taking nothing on trust: its text may be anything.
absl::Status StatusOf(const Reply& reply) {
  const absl::StatusCode code = CodeOf(reply.code);
  if (code == absl::StatusCode::kOk) return absl::OkStatus();
  const std::size_t bytes = std::min<std::size_t>(reply.message_bytes, sizeof(reply.message));
  std::string text(reply.message, bytes);
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c > '~'; }, '?');
  return WithReason(absl::Status(code, text), ReasonOf(reply.reason));
}

std::int64_t Within(std::int64_t value, std::int64_t limit) {
  return std::clamp<std::int64_t>(value, 0, limit);
}

bool IsCancelled(const WaitLimit& limit) {
  return limit.is_cancelled != nullptr && *limit.is_cancelled && (*limit.is_cancelled)();
}

absl::Status TimeIsOver() {
  return WithReason(absl::DeadlineExceededError("Deadline Exceeded"), "too_slow");
}

absl::Status Cancelled() {
  return WithReason(absl::CancelledError("Request was cancelled"), "cancelled");
}

// A block of an arena, which lives as long as its last block.
class BlockOwner {
 public:
  BlockOwner(std::shared_ptr<SharedArena> arena, std::size_t bytes, SharedArena::Stay stay)
      : arena_(std::move(arena)), block_(arena_->Allocate(bytes, stay)) {}
  ~BlockOwner() {
    if (block_ != nullptr) arena_->Free(block_);
  }
  BlockOwner(const BlockOwner&) = delete;
  BlockOwner& operator=(const BlockOwner&) = delete;

  // Null: the arena has no room.
  std::byte* block() const { return block_; }

 private:
  const std::shared_ptr<SharedArena> arena_;
  std::byte* const block_;
};

PixelMemory AllocateFrom(const std::shared_ptr<SharedArena>& arena, std::size_t bytes,
                         SharedArena::Stay stay) {
  auto owner = std::make_shared<BlockOwner>(arena, bytes, stay);
  if (owner->block() == nullptr) return {};
  return {.bytes = {owner->block(), bytes}, .owner = std::move(owner)};
}

// The size of the pixels, as the worker says and as it can be.
absl::StatusOr<PixelSize> SizeOf(const Reply& reply, const PreprocessOptions& options) {
  if (!options.patches) return PixelSize{options.image_size, options.image_size};
  const auto [patch_size, max_patches] = *options.patches;
  const std::int64_t rows = reply.height / patch_size;
  const std::int64_t columns = reply.width / patch_size;
  const bool possible = rows >= 1 && columns >= 1 && rows <= max_patches &&
                        columns <= max_patches && rows * columns <= max_patches;
  if (possible) {
    return PixelSize{static_cast<int>(columns * patch_size), static_cast<int>(rows * patch_size)};
  }
  return WithReason(
      absl::InternalError("image: the process that decoded it told a size that cannot be"),
      "decoder_crashed");
}

}  // namespace

absl::StatusOr<std::unique_ptr<DecodeWorkers>> DecodeWorkers::Start(
    const DecodeWorkersOptions& options) {
  auto workers = std::unique_ptr<DecodeWorkers>(new DecodeWorkers(options));
  const std::size_t num_slots = workers->header_slot() + 1;
  for (std::size_t i = 0; i < num_slots; ++i) {
    SIGLIP_ASSIGN_OR_RETURN(std::shared_ptr<SharedArena> arena, SharedArena::Create());
    workers->arenas_.push_back(std::move(arena));
  }
  {
    MutexLock lock(workers->mu_);
    workers->slots_.resize(num_slots);
  }
  workers->supervisor_ =
      std::thread([pool = workers.get()] { Repeat([pool] { return pool->ReplaceDown(); }); });
  for (std::size_t i = 0; i < num_slots; ++i) {
    SIGLIP_RETURN_IF_ERROR(workers->Acquire(i, {}).status());
    workers->Release(i, false);
  }
  SIGLIP_LOG_INFO("decode_workers count={} sandbox=\"{}\"", options.count, SandboxName());
  return workers;
}

DecodeWorkers::~DecodeWorkers() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  down_.NotifyAll();
  free_.NotifyAll();
  if (supervisor_.joinable()) supervisor_.join();
}

std::size_t DecodeWorkers::ChooseSlot() const {
  std::size_t best = 0;
  int best_cost = INT32_MAX;
  for (std::size_t i = 0; i < header_slot(); ++i) {
    const Slot& slot = slots_[i];
    const int cost = arenas_[i]->num_reserved() + (slot.state == State::kIdle ? 0 : 1) +
                     (slot.failures > 0 ? kFailedCost : 0);
    if (cost >= best_cost) continue;
    best = i;
    best_cost = cost;
  }
  return best;
}

DecodeWorkers::Reserved DecodeWorkers::Reserve(std::size_t bytes, SharedArena::Stay stay) {
  MutexLock lock(mu_);
  const auto reserve = [&](std::size_t slot) {
    return Reserved{.slot = slot, .memory = AllocateFrom(arenas_[slot], bytes, stay)};
  };
  Reserved reserved = reserve(ChooseSlot());
  for (std::size_t i = 0; reserved.memory.owner == nullptr && i < header_slot(); ++i) {
    if (slots_[i].failures == 0) reserved = reserve(i);
  }
  return reserved;
}

PixelMemory DecodeWorkers::Allocate(std::size_t bytes) {
  return Reserve(bytes, SharedArena::Stay::kWaits).memory;
}

absl::StatusOr<PixelSize> DecodeWorkers::Preprocess(const Preprocessor& preprocessor,
                                                    std::string_view bytes, float* pixels,
                                                    const WaitLimit& limit, StageTimes& times) {
  const PreprocessOptions& options = preprocessor.options();
  const std::size_t pixel_bytes = preprocessor.pixel_values() * sizeof(float);
  auto* const target = reinterpret_cast<std::byte*>(pixels);
  for (std::size_t slot = 0; slot < header_slot(); ++slot) {
    const std::optional<std::size_t> offset = arenas_[slot]->OffsetOf(target, pixel_bytes);
    if (!offset) continue;
    const auto size = PreprocessInto(slot, *offset, options, bytes, limit, times);
    arenas_[slot]->MarkWritten(target);
    // Where its own worker does not start another has it, at the price of a copy.
    if (!absl::IsUnavailable(size.status()) || !Readiness().ok()) return size;
    break;
  }
  const auto [slot, memory] = Reserve(pixel_bytes, SharedArena::Stay::kPasses);
  if (memory.owner == nullptr) {
    return WithReason(absl::ResourceExhaustedError("image: no memory for its pixels"), "no_memory");
  }
  const std::size_t offset = *arenas_[slot]->OffsetOf(memory.bytes.data(), pixel_bytes);
  SIGLIP_ASSIGN_OR_RETURN(const PixelSize size,
                          PreprocessInto(slot, offset, options, bytes, limit, times));
  std::memcpy(target, memory.bytes.data(), pixel_bytes);
  return size;
}

absl::StatusOr<PixelSize> DecodeWorkers::PreprocessInto(std::size_t slot, std::size_t offset,
                                                        const PreprocessOptions& options,
                                                        std::string_view bytes,
                                                        const WaitLimit& limit, StageTimes& times) {
  Request request{
      .slot = slot, .bytes = bytes, .limit = limit, .timeout = options_.picture_timeout};
  request.job = {.kind = JobKind::kPreprocess,
                 .options = options,
                 .encoded_bytes = bytes.size(),
                 .pixels_offset = offset};
  SIGLIP_ASSIGN_OR_RETURN(const Reply reply, Run(request, times));
  return SizeOf(reply, options);
}

absl::StatusOr<DecodedPicture> DecodeWorkers::Decode(const Preprocessor& preprocessor,
                                                     std::string_view bytes,
                                                     const ImageHeader& header,
                                                     const WaitLimit& limit, StageTimes& times) {
  const auto [slot, memory] = Reserve(static_cast<std::size_t>(header.width * header.height * 3),
                                      SharedArena::Stay::kPasses);
  if (memory.owner == nullptr) {
    return WithReason(absl::ResourceExhaustedError("image: no memory for its pixels"), "no_memory");
  }
  std::byte* const begin = memory.bytes.data();
  Request request{
      .slot = slot, .bytes = bytes, .limit = limit, .timeout = options_.picture_timeout};
  request.job = {.kind = JobKind::kDecode,
                 .options = preprocessor.options(),
                 .encoded_bytes = bytes.size(),
                 .pixels_offset = *arenas_[slot]->OffsetOf(begin, memory.bytes.size()),
                 .width = header.width,
                 .height = header.height};
  SIGLIP_RETURN_IF_ERROR(Run(request, times).status());
  arenas_[slot]->MarkWritten(begin);
  return DecodedPicture{.size = {static_cast<int>(header.width), static_cast<int>(header.height)},
                        .rgb = memory};
}

absl::StatusOr<Reply> DecodeWorkers::Run(const Request& request, StageTimes& times) {
  SIGLIP_ASSIGN_OR_RETURN(const Reply reply, Exchange(request));
  const std::int64_t most_ns = nanoseconds(options_.picture_timeout).count();
  times = {.decode_ns = Within(reply.times.decode_ns, most_ns),
           .resize_ns = Within(reply.times.resize_ns, most_ns),
           .normalize_ns = Within(reply.times.normalize_ns, most_ns)};
  SIGLIP_RETURN_IF_ERROR(StatusOf(reply));
  return reply;
}

absl::StatusOr<ImageHeader> DecodeWorkers::ReadImageHeader(const Preprocessor& preprocessor,
                                                           std::string_view bytes,
                                                           const WaitLimit& limit) {
  if (!LibraryReadsHeader(bytes)) return preprocessor.ReadHeader(bytes);
  Request request{.slot = header_slot(), .bytes = bytes, .limit = limit, .timeout = kHeaderTimeout};
  request.job.kind = JobKind::kReadHeader;
  request.job.options = preprocessor.options();
  request.job.encoded_bytes = bytes.size();
  SIGLIP_ASSIGN_OR_RETURN(const Reply reply, Exchange(request));
  SIGLIP_RETURN_IF_ERROR(StatusOf(reply));
  ImageHeader header;
  header.width = Within(reply.width, kPillowMaxPixels);
  header.height = Within(reply.height, kPillowMaxPixels);
  header.working_set_bytes = Within(reply.working_set_bytes, kWorkerMemoryBytes);
  return header;
}

absl::StatusOr<Reply> DecodeWorkers::Exchange(const Request& request) {
  if (request.bytes.size() > kEncodedAreaBytes) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat("image: expected at most ", kEncodedAreaBytes,
                                                " bytes, got ", request.bytes.size())),
        "too_large");
  }
  SharedArena& arena = *arenas_[request.slot];
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    SIGLIP_ASSIGN_OR_RETURN(WorkerProcess * process, Acquire(request.slot, request.limit));
    if (!request.bytes.empty()) {
      std::memcpy(arena.encoded_area().data(), request.bytes.data(), request.bytes.size());
    }
    if (process->IsStopped() || !process->Send(request.job)) {
      // It ended or was stopped while it had nothing to do, or reads no jobs: no fault of this
      // picture.
      const pid_t pid = process->pid();
      LogEnd({.slot = request.slot}, pid, process->Kill());
      Release(request.slot, true);
      continue;
    }
    WaitLimit limit = request.limit;
    limit.end_ns = std::min(limit.end_ns, SteadyNowNs() + request.timeout.count());
    const absl::StatusOr<Reply> reply = process->Receive(limit);
    arena.TrimEncoded(request.bytes.size());
    if (!reply.ok()) {
      const absl::Status status = End(request, *process, reply.status());
      Release(request.slot, true);
      return status;
    }
    Release(request.slot, reply->retiring != 0);
    return reply;
  }
  return WithReason(absl::InternalError("image: the processes that decode keep ending"),
                    "decoder_crashed");
}

absl::Status DecodeWorkers::End(const Request& request, WorkerProcess& process,
                                const absl::Status& cause) {
  const pid_t pid = process.pid();
  const std::string end = process.Kill();
  if (absl::IsCancelled(cause)) return Cancelled();
  if (absl::IsDeadlineExceeded(cause)) {
    if (SteadyNowNs() >= request.limit.end_ns) return TimeIsOver();
    LogEnd(request, pid, "too slow");
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(request.timeout).count();
    return WithReason(
        absl::DeadlineExceededError(absl::StrCat("image: not decoded within ", ms, " ms")),
        "too_slow");
  }
  LogEnd(request, pid, end);
  return WithReason(
      absl::InternalError(absl::StrCat("image: the process that decoded it ended (", end, ")")),
      "decoder_crashed");
}

void DecodeWorkers::LogEnd(const Request& request, pid_t pid, const std::string& end) {
  int unlogged = 0;
  {
    MutexLock lock(mu_);
    const std::int64_t now_ns = SteadyNowNs();
    if (now_ns < next_log_ns_) {
      ++unlogged_ends_;
      return;
    }
    next_log_ns_ = now_ns + kLogPeriodNs;
    unlogged = std::exchange(unlogged_ends_, 0);
  }
  // The sum finds the picture again for whoever keeps them; the picture itself is never logged.
  SIGLIP_LOG_WARN(
      "decode_worker_ended worker={} pid={} end=\"{}\" picture_bytes={} picture_sha256={} "
      "not_logged={}",
      request.slot, pid, end, request.bytes.size(), Sha256Hex(request.bytes), unlogged);
}

absl::StatusOr<WorkerProcess*> DecodeWorkers::Acquire(std::size_t index, const WaitLimit& limit) {
  MutexLock lock(mu_);
  while (true) {
    Slot& slot = slots_[index];
    if (slot.state == State::kIdle) {
      slot.state = State::kBusy;
      return slot.process.get();
    }
    if (stopping_ || slot.failures > 0) {
      return WithReason(absl::UnavailableError(absl::StrCat("image: no process to decode it",
                                                            slot.error.ok() ? "" : ": ",
                                                            std::string(slot.error.message()))),
                        "no_decoder");
    }
    const std::int64_t left_ns = limit.end_ns - SteadyNowNs();
    if (left_ns <= 0) return TimeIsOver();
    if (IsCancelled(limit)) return Cancelled();
    free_.WaitFor(mu_, std::min(kWaitSlice, nanoseconds(left_ns)));
  }
}

void DecodeWorkers::Release(std::size_t index, bool replace) {
  {
    MutexLock lock(mu_);
    slots_[index].state = replace ? State::kDown : State::kIdle;
  }
  if (replace) {
    down_.NotifyOne();
  } else {
    free_.NotifyAll();
  }
}

bool DecodeWorkers::ReplaceDown() {
  const std::vector<std::size_t> due = WaitForDown();
  if (due.empty()) return false;
  std::size_t running = 0;
  try {
    running = StartSlots(due);
  } catch (const std::bad_alloc&) {
    MutexLock lock(mu_);
    for (const std::size_t index : due) {
      Slot& slot = slots_[index];
      if (slot.state != State::kStarting) continue;
      slot.state = State::kDown;
      ++slot.failures;
    }
  }
  free_.NotifyAll();
  MutexLock lock(mu_);
  if (running == due.size()) {
    failed_rounds_ = 0;
    return true;
  }
  failed_rounds_ = running > 0 ? 1 : failed_rounds_ + 1;
  const int doublings = std::min(failed_rounds_ - 1, 10);
  next_retry_ns_ = SteadyNowNs() + std::min(kFirstBackoffNs << doublings, kLastBackoffNs);
  return true;
}

std::vector<std::size_t> DecodeWorkers::WaitForDown() {
  std::vector<std::unique_ptr<WorkerProcess>> old;  // ended after the lock is given back
  std::vector<std::size_t> due;
  old.reserve(arenas_.size());
  due.reserve(arenas_.size());
  MutexLock lock(mu_);
  while (!stopping_) {
    const std::int64_t now_ns = SteadyNowNs();
    const bool may_retry = now_ns >= next_retry_ns_;
    // What keeps one from starting may not keep the others.
    std::optional<std::size_t> least_failed;
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      const Slot& slot = slots_[i];
      if (slot.state != State::kDown) continue;
      if (slot.failures == 0 || failed_rounds_ == 0) {
        due.push_back(i);
      } else if (!least_failed || slot.failures < slots_[*least_failed].failures) {
        least_failed = i;
      }
    }
    if (least_failed && may_retry) due.push_back(*least_failed);
    if (!due.empty()) break;
    if (least_failed) {
      down_.WaitFor(mu_, nanoseconds(next_retry_ns_ - now_ns));
    } else {
      down_.Wait(mu_);
    }
  }
  for (const std::size_t index : due) {
    slots_[index].state = State::kStarting;
    old.push_back(std::move(slots_[index].process));
  }
  return due;
}

// All are started before the first is waited for.
std::size_t DecodeWorkers::StartSlots(const std::vector<std::size_t>& due) {
  std::vector<absl::StatusOr<std::unique_ptr<WorkerProcess>>> started;
  for (const std::size_t index : due) {
    arenas_[index]->GiveBackUnused();
    started.push_back(WorkerProcess::Start(options_.program, arenas_[index]->descriptor()));
  }
  std::size_t running = 0;
  for (std::size_t i = 0; i < due.size(); ++i) {
    if (Install(due[i], AwaitReady(std::move(started[i])))) ++running;
  }
  return running;
}

absl::StatusOr<std::unique_ptr<WorkerProcess>> DecodeWorkers::AwaitReady(
    absl::StatusOr<std::unique_ptr<WorkerProcess>> process) const {
  if (!process.ok()) return process;
  const auto end_ns = SteadyNowNs() + nanoseconds(kStartTimeout).count();
  const absl::StatusOr<Reply> ready = (*process)->Receive({.end_ns = end_ns});
  if (!ready.ok()) {
    return absl::UnavailableError(
        absl::StrCat(ready.status().message(), " at its start, ", (*process)->Kill()));
  }
  if (const absl::Status status = StatusOf(*ready); !status.ok()) {
    return absl::UnavailableError(absl::StrCat("sandbox: ", status.message()));
  }
  return process;
}

bool DecodeWorkers::Install(std::size_t index,
                            absl::StatusOr<std::unique_ptr<WorkerProcess>> process) {
  const bool runs = process.ok();
  {
    MutexLock lock(mu_);
    Slot& slot = slots_[index];
    if (runs) {
      slot.state = State::kIdle;
      slot.process = *std::move(process);
      slot.failures = 0;
      slot.error = absl::OkStatus();
    } else {
      slot.state = State::kDown;
      slot.error = process.status();
      ++slot.failures;
      // The first, second, fourth ...: it may go on for days.
      if ((slot.failures & (slot.failures - 1)) == 0) {
        SIGLIP_LOG_ERROR("decode_worker_not_started worker={} failures={} reason=\"{}\"", index,
                         slot.failures, LogSafe(std::string(slot.error.message())));
      }
    }
  }
  free_.NotifyAll();
  return runs;
}

absl::Status DecodeWorkers::Readiness() const {
  MutexLock lock(mu_);
  for (std::size_t i = 0; i < header_slot(); ++i) {
    if (slots_[i].failures == 0) return absl::OkStatus();
  }
  return absl::UnavailableError("no decode worker can be started");
}

}  // namespace siglip
