#pragma once

// Decoding in processes of its own: a picture that makes a codec library crash, hang or write where
// it should not costs the request that brought it, and nothing else. Each worker is confined
// (sandbox.h), has one picture at a time, and is replaced when it ends.
//
// Pixels are written by the worker where the encoder reads them; the encoded bytes are copied once.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "image/preprocess.h"
#include "workers/shared_arena.h"
#include "workers/worker_process.h"

namespace siglip {

struct DecodeWorkersOptions {
  int count = 1;  // that decode; one more reads the heads that a library must read
  // For one picture. Pillow's limit of pixels takes 1 to 20 s, by format.
  std::chrono::milliseconds picture_timeout{60'000};
  // Its main() calls RunDecodeWorker.
  std::string program = "/proc/self/exe";
};

// Memory that a worker can write and the server reads; `owner` gives it back.
struct PixelMemory {
  std::span<std::byte> bytes = {};
  std::shared_ptr<const void> owner = {};
};

struct DecodedPicture {
  PixelSize size = {};
  PixelMemory rgb = {};  // [height, width, 3]
};

// Thread-safe. Outlives the calls, not the memory that it gave.
class DecodeWorkers {
 public:
  // Starts all of them. Unavailable, with the reason, if one does not start or is not confined.
  static absl::StatusOr<std::unique_ptr<DecodeWorkers>> Start(const DecodeWorkersOptions& options);
  ~DecodeWorkers();
  DecodeWorkers(const DecodeWorkers&) = delete;
  DecodeWorkers& operator=(const DecodeWorkers&) = delete;

  int count() const { return options_.count; }

  // Memory of the worker that is likely free next, or of another one. Empty where none has any:
  // ordinary memory does too, at the price of a copy.
  PixelMemory Allocate(std::size_t bytes);

  // preprocessor.Preprocess, in a worker. Beside its errors, each with the payload
  // siglip.image_refused:
  //   Internal           the worker ended ("decoder_crashed")
  //   DeadlineExceeded   picture_timeout or limit.end_ns passed, the worker was killed ("too_slow")
  //   Cancelled          limit.is_cancelled said so; likewise
  //   Unavailable        no worker can be started ("no_decoder")
  absl::StatusOr<PixelSize> Preprocess(const Preprocessor& preprocessor, std::string_view bytes,
                                       float* pixels, const WaitLimit& limit, StageTimes& times);

  // Only the decoding, of a picture with this head: for pixels that are resized elsewhere. Its
  // errors are those above.
  absl::StatusOr<DecodedPicture> Decode(const Preprocessor& preprocessor, std::string_view bytes,
                                        const ImageHeader& header, const WaitLimit& limit,
                                        StageTimes& times);

  // preprocessor.ReadHeader; format stays empty where a worker read it. Its errors are those above.
  absl::StatusOr<ImageHeader> ReadImageHeader(const Preprocessor& preprocessor,
                                              std::string_view bytes, const WaitLimit& limit);

  // Not OK while no worker can be started.
  absl::Status Readiness() const;

 private:
  enum class State { kDown, kStarting, kIdle, kBusy };
  struct Slot {
    State state = State::kDown;
    std::unique_ptr<WorkerProcess> process;  // of whoever has the slot, or nobody
    // Starts that failed since one that did not.
    int failures = 0;
    absl::Status error;  // of the last start
  };
  explicit DecodeWorkers(const DecodeWorkersOptions& options) : options_(options) {}

  struct Request {
    std::size_t slot = 0;
    std::string_view bytes = {};
    Job job = {};
    WaitLimit limit = {};
    std::chrono::nanoseconds timeout{0};
  };

  // The worker of this slot once nobody else has it.
  absl::StatusOr<WorkerProcess*> Acquire(std::size_t slot, const WaitLimit& limit);
  void Release(std::size_t slot, bool replace);
  // Memory of the worker that is likeliest to be free, or of the next one that has any; `slot` is
  // which. One step: whoever comes at the same time sees it taken.
  struct Reserved {
    std::size_t slot = 0;
    PixelMemory memory = {};
  };
  Reserved Reserve(std::size_t bytes, SharedArena::Stay stay);
  std::size_t ChooseSlot() const SIGLIP_REQUIRES(mu_);
  // Sends the picture and waits. Errors are those of Preprocess, with payload.
  absl::StatusOr<Reply> Exchange(const Request& request);
  // The same, of work on pixels; errors of the picture too.
  absl::StatusOr<Reply> Run(const Request& request, StageTimes& times);
  // Makes an end of the worker after it had begun: logs it, and says what the request is told.
  absl::Status End(const Request& request, WorkerProcess& process, const absl::Status& cause);
  void LogEnd(const Request& request, pid_t pid, const std::string& end);
  absl::StatusOr<PixelSize> PreprocessInto(std::size_t slot, std::size_t offset,
                                           const PreprocessOptions& options, std::string_view bytes,
                                           const WaitLimit& limit, StageTimes& times);
  std::size_t header_slot() const { return static_cast<std::size_t>(options_.count); }

  // Rounds of the thread that starts workers (see WorkerProcess::Start); false at the end.
  bool ReplaceDown();
  std::vector<std::size_t> WaitForDown();  // empty: the end
  // How many of them run.
  std::size_t StartSlots(const std::vector<std::size_t>& due);
  absl::StatusOr<std::unique_ptr<WorkerProcess>> AwaitReady(
      absl::StatusOr<std::unique_ptr<WorkerProcess>> process) const;
  // Whether it runs.
  bool Install(std::size_t slot, absl::StatusOr<std::unique_ptr<WorkerProcess>> process);

  const DecodeWorkersOptions options_;
  std::vector<std::shared_ptr<SharedArena>> arenas_;  // by slot; set before the threads
  mutable Mutex mu_;
  CondVar free_;  // for calls: a slot may be had, or never will
  CondVar down_;  // for the supervisor: a slot is down, or the end is near
  std::vector<Slot> slots_ SIGLIP_GUARDED_BY(mu_);
  bool stopping_ SIGLIP_GUARDED_BY(mu_) = false;
  // Rounds of starts since one in which none failed. Until then one of the workers that failed is
  // tried at a time, and not before next_retry_ns_.
  int failed_rounds_ SIGLIP_GUARDED_BY(mu_) = 0;
  std::int64_t next_retry_ns_ SIGLIP_GUARDED_BY(mu_) = 0;
  std::int64_t next_log_ns_ SIGLIP_GUARDED_BY(mu_) = 0;
  int unlogged_ends_ SIGLIP_GUARDED_BY(mu_) = 0;
  std::thread supervisor_;
};

}  // namespace siglip
