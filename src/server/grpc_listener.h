#pragma once

// Accepts the gRPC door's connections and hands them to grpc++. Its own listener would do but for
// two things: in 1.51 it stops for good at the first connection that it cannot accept, for lack of
// descriptors or memory, and there is no limit of their number. Private to this folder.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/status/statusor.h"
#include "server/connection_guard.h"
#include "server/lent_sockets.h"
#include "server/options.h"

namespace siglip {

// Confined to one thread, but for the one that it has itself.
class GrpcListener {
 public:
  using Target = grpc::experimental::ExternalConnectionAcceptor;

  // On options.grpc_address and grpc_port: an address or a name; the wildcard of either family
  // means both. Unavailable with address and port if it cannot.
  static absl::StatusOr<std::unique_ptr<GrpcListener>> Open(const ServerOptions& options);
  ~GrpcListener();
  GrpcListener(const GrpcListener&) = delete;
  GrpcListener& operator=(const GrpcListener&) = delete;

  std::uint16_t port() const { return port_; }
  // From now on connections go to `target`, whose server runs. Called once. ResourceExhausted if
  // the system gives no thread.
  absl::Status Start(std::unique_ptr<Target> target);
  // Nobody connects any more. May be called twice.
  void Stop();

 private:
  GrpcListener(int wake_fd, std::size_t max_connections)
      : max_connections_(max_connections), wake_fd_(wake_fd), guard_("grpc", max_connections) {}
  absl::Status Listen(const ServerOptions& options);
  void Run();
  // All that wait. False if one could not be accepted: trying again at once would spin.
  bool AcceptAll(int listener);

  const std::size_t max_connections_;
  const int wake_fd_;
  std::uint16_t port_ = 0;
  std::vector<int> listeners_;
  std::unique_ptr<Target> target_;
  ConnectionGuard guard_;
  LentSockets open_;
  std::vector<std::thread> thread_;  // one, between Start and Stop
};

}  // namespace siglip
