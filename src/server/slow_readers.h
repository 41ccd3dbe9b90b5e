#pragma once

// Ends calls whose clients do not read their answers: gRPC waits for them without end. Private to
// this folder.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <unordered_map>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "base/mutex.h"
#include "server/options.h"

namespace siglip {

// How many of an answer's bytes gRPC is done with. Only ever grows; orders nothing else.
using SentBytes = std::atomic<std::size_t>;

// Thread-safe.
class SlowReaders {
 public:
  using Id = std::uint64_t;

  explicit SlowReaders(const GrpcLimits& limits);
  // REQUIRES: every Begin has had its End.
  ~SlowReaders();

  // An answer of `bytes` is being sent: n of them, looked at every megabyte, have as much time as
  // `limits` say, or the call is cancelled.
  Id Begin(grpc::CallbackServerContext& context, std::size_t bytes,
           std::shared_ptr<const SentBytes> sent);
  // It has been sent, or not; the context is not touched any more. Called once; may be called by
  // what the cancelling itself calls.
  void End(Id id);

 private:
  struct Answer {
    grpc::CallbackServerContext* context;
    std::size_t bytes;
    std::shared_ptr<const SentBytes> sent;
    std::chrono::steady_clock::time_point start;
  };

  bool IsLate(const Answer& answer, std::chrono::steady_clock::time_point now) const;
  // A round of the thread's life; false at the end.
  bool Follow();
  void Cancel(Id id);

  const std::chrono::milliseconds timeout_;
  const std::size_t bytes_per_s_;
  Mutex mu_;
  CondVar changed_;    // the first answer came, or the end
  CondVar cancelled_;  // `cancelling_` was set to 0
  bool ending_ SIGLIP_GUARDED_BY(mu_) = false;
  bool asleep_ SIGLIP_GUARDED_BY(mu_) = false;
  Id last_id_ SIGLIP_GUARDED_BY(mu_) = 0;
  Id cancelling_ SIGLIP_GUARDED_BY(mu_) = 0;  // its context is being used by `follower_`
  std::unordered_map<Id, Answer> answers_ SIGLIP_GUARDED_BY(mu_);
  std::thread follower_;
};

}  // namespace siglip
