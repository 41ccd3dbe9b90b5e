#pragma once

// The other models of the Triton server that a door sends its work to.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "serving/deployment.h"
#include "triton/core/tritonbackend.h"

namespace siglip::triton {

// What answers of inner requests are written to: memory of the CPU.
struct AllocatorDelete {
  void operator()(TRITONSERVER_ResponseAllocator* allocator) const;
};
using ResponseAllocator = std::unique_ptr<TRITONSERVER_ResponseAllocator, AllocatorDelete>;
absl::StatusOr<ResponseAllocator> MakeResponseAllocator();

// On behalf of one outer request. Nothing waits: an inner request is answered on a thread of the
// core's, when the core has released it too.
class CoreModels final : public ModelAccess {
 public:
  // All three are borrowed; `outer` until it is finished, which InferWithin must not come after.
  CoreModels(TRITONSERVER_Server* server, TRITONSERVER_ResponseAllocator* allocator,
             TRITONBACKEND_Request* outer)
      : server_(server), allocator_(allocator), outer_(outer) {}

  absl::StatusOr<std::shared_ptr<const ModelConfig>> ReadyConfig(
      const std::string& name, const std::string& version) const override;
  void InferWithin(std::unique_ptr<InferRequest> request) override;
  // Only our own response cache asks, and the core has its own.
  std::uint64_t generation() const override { return 0; }

 private:
  TRITONSERVER_Server* const server_;
  TRITONSERVER_ResponseAllocator* const allocator_;
  TRITONBACKEND_Request* const outer_;
};

}  // namespace siglip::triton
