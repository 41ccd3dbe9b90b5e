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
#include "server/grpc_call.h"
#include "serving/service.h"

namespace siglip {

// What an inference call needs of its server.
struct InferDoor {
  Service& service;
  DoorState& state;
  OpenCalls& open;
  PendingCounter& pending;  // inferences, loads and unloads that owe an answer
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
