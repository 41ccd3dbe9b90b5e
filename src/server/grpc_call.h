#pragma once

// What every call of the gRPC door has. Private to this folder.

#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "server/door_state.h"
#include "server/slow_readers.h"
#include "serving/budget.h"

namespace siglip {

grpc::Status ToGrpcStatus(const absl::Status& status);
// So short that it needs no memory itself.
grpc::Status NoMemory();

// The one check of every call, before anything is done for it. Unauthenticated if it needs an API
// key and has none that is known; Unavailable if the part of the protocol is restricted and the
// call has not the header.
absl::Status CheckGrpcAccess(const grpc::CallbackServerContext& context, Api api,
                             const DoorState& state);

// How many of something are under way. Thread-safe.
class PendingCounter {
 public:
  // One of them, from its beginning to its end.
  class Entry {
   public:
    explicit Entry(PendingCounter& counter) : counter_(counter) { counter_.Add(); }
    ~Entry() { counter_.Remove(); }
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;

   private:
    PendingCounter& counter_;
  };

  void Add();
  void Remove();
  bool WaitZero(std::chrono::steady_clock::time_point deadline);

 private:
  Mutex mu_;
  CondVar zero_;
  int count_ SIGLIP_GUARDED_BY(mu_) = 0;
};

// The calls that gRPC has handed over and is not done with. Thread-safe.
struct OpenCalls {
  explicit OpenCalls(const GrpcLimits& limits);

  PendingCounter count;
  SlowReaders slow_readers;
  // Of unread answers without tensors; those with tensors hold their outputs' memory.
  const std::shared_ptr<Budget> answers;
};

// A call that is answered once, and is open until its answer has been sent. Owned by gRPC until
// OnDone.
class OpenCall : public grpc::ServerUnaryReactor {
 public:
  // `answer` is the call's own, until it is done.
  OpenCall(grpc::CallbackServerContext& context, grpc::ByteBuffer& answer, OpenCalls& calls)
      : context_(context), answer_(answer), calls_(calls), open_(calls.count) {}

  // Finish; with `answer` if `status` is OK and there is room for it.
  void FinishControl(grpc::Status status);
  void OnDone() override;

 protected:
  ~OpenCall() override = default;

  // `answer_` is about to be sent: the client has its time to read it, `sent` says how far it is.
  void BeginAnswer(std::shared_ptr<const SentBytes> sent) {
    unread_ = calls_.slow_readers.Begin(context_, answer_.Length(), std::move(sent));
  }

  grpc::CallbackServerContext& context_;
  grpc::ByteBuffer& answer_;

 private:
  // OnCancel and OnDone neither wait nor call back: gRPC may run them where it is, as it runs those
  // of its own DefaultReactor, without a change of threads (an eighth of a call's CPU time;
  // bench/doors.py). Not of gRPC's public API: where it is gone, this line no longer compiles, and
  // may go.
  bool InternalInlineable() override { return true; }

  OpenCalls& calls_;
  const PendingCounter::Entry open_;
  Budget::Hold hold_;
  std::optional<SlowReaders::Id> unread_;  // from BeginAnswer to OnDone
};

}  // namespace siglip
