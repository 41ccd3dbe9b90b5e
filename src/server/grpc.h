#pragma once

// The gRPC door: inference.GRPCInferenceService (20 RPCs) and grpc.health.v1.Health over one
// service.

#include <chrono>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "server/door_state.h"
#include "server/options.h"
#include "serving/service.h"

namespace siglip {

// Thread-safe.
class GrpcServer {
 public:
  // Unavailable with the port if it is in use. `service` and `state` outlive the server.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(Service& service, DoorState& state,
                                                           const ServerOptions& options);
  // Cancels what is still running. Waits for the answers that the service still owes.
  ~GrpcServer();

  std::uint16_t port() const;
  // Streams without work are ended, new calls are refused once WaitDrained runs.
  void BeginDrain();
  // True if every call was done before `deadline`. Returns then; the others are cancelled a moment
  // later. Called once at most.
  bool WaitDrained(std::chrono::steady_clock::time_point deadline);

 private:
  struct Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace siglip
