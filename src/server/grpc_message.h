#pragma once

// Messages of the gRPC door, from bytes and to bytes. Every call takes its message raw: grpc++
// would make a tree of it, of a hundred times its bytes if that is what the client wants, before
// the call could be looked at. Private to this folder.

#include <cstddef>

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include "absl/status/statusor.h"

namespace siglip {

// Of messages that carry no tensors, as they come. A load's, which may have a model's configuration
// in it, may be as large as tensors are.
constexpr std::size_t kMaxPlainMessageBytes = std::size_t{1} << 20;

// Fills `message` and frees `bytes`, which gRPC would keep until the call ends. Returns about how
// much memory the message takes. Internal, as grpc++ itself, for what is no such message;
// OutOfRange for more than `max_bytes` on the wire; InvalidArgument if the message would take much
// more memory than that.
absl::StatusOr<std::size_t> ReadMessage(const grpc::ByteBuffer& bytes, std::size_t max_bytes,
                                        google::protobuf::Message& message);

// The way back.
grpc::Status WriteMessage(const google::protobuf::Message& message, grpc::ByteBuffer& bytes);

}  // namespace siglip
