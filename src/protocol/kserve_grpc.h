#pragma once

// The KServe v2 inference request and answer over gRPC: protobuf <-> plain structs.

#include <memory>

#include "absl/status/statusor.h"
#include "protocol/shared_memory_io.h"
#include "serving/request.h"

#include "grpc_service.pb.h"

namespace siglip {

struct ParsedGrpcInfer {
  std::unique_ptr<InferRequest> request;  // done, is_cancelled and times are the caller's
  SharedMemorySlices shared_memory;       // where outputs go
};

// `owner` keeps `message` alive: inputs borrow from it. InvalidArgument for what breaks the
// protocol. Null regions refuse shared memory.
absl::StatusOr<ParsedGrpcInfer> ParseGrpcInfer(const inference::ModelInferRequest& message,
                                               std::shared_ptr<const void> owner,
                                               const SharedMemoryRegions* regions = nullptr);

// REQUIRES: response.status is ok. All but raw_output_contents, of which there is one per output,
// always: they follow the message on the wire, and are not copied into it.
void RenderGrpcInfer(const InferResponse& response, inference::ModelInferResponse& message);

}  // namespace siglip
