#pragma once

// The two inference calls of the gRPC door. Private to this folder.

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <set>

#include <grpcpp/grpcpp.h>

#include "base/mutex.h"
#include "server/door_state.h"
#include "server/slow_readers.h"
#include "serving/service.h"

namespace siglip {

grpc::Status ToGrpcStatus(const absl::Status& status);
grpc::Status ShuttingDown();
// The one check of every call, before anything is done for it. Unauthenticated if it needs an API
// key and has none that is known; Unavailable if the part of the protocol is restricted and the
// call has not the header.
absl::Status CheckGrpcAccess(const grpc::CallbackServerContext& context, Api api,
                             const DoorState& state);

// How many inferences, loads and unloads still owe an answer. Thread-safe.
class PendingCounter {
 public:
  void Add();
  void Remove();
  bool WaitZero(std::chrono::steady_clock::time_point deadline);

 private:
  Mutex mu_;
  CondVar zero_;
  int count_ SIGLIP_GUARDED_BY(mu_) = 0;
};

// What an inference call needs of its server.
struct InferDoor {
  Service& service;
  DoorState& state;
  PendingCounter& pending;
  SlowReaders& slow_readers;
  std::size_t max_message_bytes;
};

// `bytes` and `answer` are the call's own, until it is done.
grpc::ServerUnaryReactor* StartUnaryInfer(grpc::CallbackServerContext& context,
                                          const grpc::ByteBuffer& bytes, grpc::ByteBuffer& answer,
                                          const InferDoor& door);

class StreamCall;

// Streams that are open, for draining. Thread-safe.
class StreamRegistry {
 public:
  void Add(const std::shared_ptr<StreamCall>& call);
  void Remove(const std::shared_ptr<StreamCall>& call);
  void DrainAll();

 private:
  Mutex mu_;
  std::set<std::shared_ptr<StreamCall>> open_ SIGLIP_GUARDED_BY(mu_);
};

// With an `access` that is not ok the stream is ended with it.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartStreamInfer(
    grpc::CallbackServerContext& context, const InferDoor& door, StreamRegistry& registry,
    const absl::Status& access);

}  // namespace siglip
