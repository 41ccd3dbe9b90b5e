#pragma once

// Answers to inference calls as bytes. Private to this folder.

#include <cstddef>
#include <memory>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "server/slow_readers.h"
#include "serving/request.h"

#include "grpc_service.pb.h"

namespace siglip {

// Outputs go to gRPC in pieces of so many bytes, so that it shows how far it is.
constexpr std::size_t kAnswerPieceBytes = std::size_t{1} << 20;

enum class InferCall { kUnary, kStream };

// The message that answers `call`, of `head`, which has all but the outputs' bytes. Those are not
// copied: gRPC holds the outputs' storage until they are written, and `sent` counts them then.
// Internal for what no message can hold.
grpc::Status WriteInferAnswer(InferCall call, const inference::ModelInferResponse& head,
                              const std::vector<OutputTensor>& outputs,
                              const std::shared_ptr<SentBytes>& sent, grpc::ByteBuffer& bytes);

}  // namespace siglip
