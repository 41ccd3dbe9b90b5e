#pragma once

// What the doors share.

#include <atomic>

#include "absl/status/status.h"
#include "server/access.h"
#include "server/options.h"
#include "serving/shared_memory.h"
#include "serving/tracer.h"

namespace siglip {

// Thread-safe once configured.
struct DoorState {
  explicit DoorState(const ServerOptions& options = {})
      : regions(options.allow_client_shm, options.http_max_input_bytes) {}
  // Restrictions, forwarding and tracing, from their texts. InvalidArgument names the text.
  absl::Status Configure(const ServerOptions& options);

  // Set once when the end is announced: readiness turns false. Orders nothing else.
  std::atomic<bool> leaving{false};
  // Set once, not before `leaving`, when draining starts: new streams are refused. Orders nothing
  // else.
  std::atomic<bool> draining{false};
  SharedMemoryRegions regions;
  Tracer tracer;
  RestrictedApis http_restricted;
  RestrictedApis grpc_restricted;
  HeaderForwarding http_forwarding;
  HeaderForwarding grpc_forwarding;
};

}  // namespace siglip
