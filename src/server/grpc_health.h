#pragma once

// grpc.health.v1.Health: Check, and Watch, which tells of changes as they are seen. Private to this
// folder.

#include <memory>
#include <set>
#include <thread>

#include <grpcpp/grpcpp.h>

#include "base/mutex.h"
#include "server/door_state.h"
#include "server/grpc_call.h"
#include "serving/service.h"

#include "health.grpc.pb.h"

namespace siglip {

// Thread-safe. Messages are taken raw, see grpc_message.h.
class HealthService final : public grpc::health::v1::Health::WithRawCallbackMethod_Check<
                                grpc::health::v1::Health::WithRawCallbackMethod_Watch<
                                    grpc::health::v1::Health::Service>> {
 public:
  HealthService(siglip::Service& service, const DoorState& state, OpenCalls& open);
  ~HealthService() override;

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* bytes, grpc::ByteBuffer* answer) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Watch(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* bytes) override;

  // Tells NOT_SERVING to whoever watches and ends the calls. May be called twice.
  void Drain();

 private:
  class WatchCall;
  absl::Status Read(const grpc::CallbackServerContext& context,
                    const grpc::ByteBuffer& bytes) const;
  grpc::health::v1::HealthCheckResponse::ServingStatus Status() const;
  // A round of the thread's life; false at the end.
  bool FollowReadiness();

  siglip::Service& service_;
  const DoorState& state_;
  OpenCalls& open_;
  Mutex mu_;
  CondVar changed_;  // a call came, or the end
  bool draining_ SIGLIP_GUARDED_BY(mu_) = false;
  std::set<std::shared_ptr<WatchCall>> calls_ SIGLIP_GUARDED_BY(mu_);
  std::thread follower_;
};

}  // namespace siglip
