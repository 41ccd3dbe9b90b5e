#pragma once

// grpc.health.v1.Health: Check, and Watch, which tells of changes as they are seen. Private to this
// folder.

#include <memory>
#include <set>
#include <thread>

#include <grpcpp/grpcpp.h>

#include "base/mutex.h"
#include "server/door_state.h"
#include "serving/service.h"

#include "health.grpc.pb.h"

namespace siglip {

// Thread-safe.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  HealthService(siglip::Service& service, const DoorState& state);
  ~HealthService() override;

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context,
      const grpc::health::v1::HealthCheckRequest* request) override;

  // Tells NOT_SERVING to whoever watches and ends the calls. May be called twice.
  void Drain();

 private:
  class WatchCall;
  grpc::health::v1::HealthCheckResponse::ServingStatus Status() const;
  void FollowReadiness();

  siglip::Service& service_;
  const DoorState& state_;
  Mutex mu_;
  CondVar changed_;  // a call came, or the end
  bool draining_ SIGLIP_GUARDED_BY(mu_) = false;
  std::set<std::shared_ptr<WatchCall>> calls_ SIGLIP_GUARDED_BY(mu_);
  std::thread follower_;
};

}  // namespace siglip
