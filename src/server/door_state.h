#pragma once

// What the doors share.

#include <atomic>
#include <memory>

#include "absl/status/status.h"
#include "server/access.h"
#include "server/api_keys.h"
#include "server/options.h"
#include "server/refusal_times.h"
#include "serving/shared_memory.h"
#include "serving/tracer.h"

namespace siglip {

// Health tells nothing that is worth a key, and whoever asks for it (kubelets, balancers) has none.
constexpr bool NeedsNoApiKey(Api api) { return api == Api::kHealth; }

// Thread-safe once configured.
struct DoorState {
  explicit DoorState(const ServerOptions& options = {})
      : regions({.allowed = options.allow_client_shm,
                 .max_read_bytes = options.http_max_input_bytes,
                 .key_prefix = options.client_shm_prefix}) {}
  // API keys from their file; restrictions, forwarding and tracing from their texts.
  // InvalidArgument names file or text.
  absl::Status Configure(const ServerOptions& options);

  // Set once when the end is announced: readiness turns false. Orders nothing else.
  std::atomic<bool> leaving{false};
  // Set once, not before `leaving`, when draining starts: new streams are refused. Orders nothing
  // else.
  std::atomic<bool> draining{false};
  RefusalTimes http_refusals;
  RefusalTimes grpc_refusals;
  SharedMemoryRegions regions;
  const std::shared_ptr<Tracer> tracer = Tracer::Create();
  ApiKeys api_keys;
  RestrictedApis http_restricted;
  RestrictedApis grpc_restricted;
  HeaderForwarding http_forwarding;
  HeaderForwarding grpc_forwarding;
};

}  // namespace siglip
