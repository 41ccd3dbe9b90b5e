#include "server/grpc_message.h"

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/proto_buffer_writer.h>

#include "base/status_macros.h"
#include "protocol/text.h"
#include "protocol/wire_check.h"

namespace siglip {

absl::StatusOr<std::size_t> ReadMessage(const grpc::ByteBuffer& bytes, std::size_t max_bytes,
                                        google::protobuf::Message& message) {
  // gRPC's own object, made for this call, which hands it out as const.
  auto& owned = const_cast<grpc::ByteBuffer&>(bytes);
  if (owned.Length() > max_bytes) {
    return absl::OutOfRangeError(
        Concat("Received message larger than max (", owned.Length(), " vs. ", max_bytes, ")"));
  }
  std::size_t tree_bytes;
  {
    grpc::ProtoBufferReader wire(&owned);
    if (!wire.status().ok()) return absl::InternalError(wire.status().error_message());
    SIGLIP_ASSIGN_OR_RETURN(tree_bytes, CheckWire(*message.GetDescriptor(), max_bytes, wire));
  }
  {
    grpc::ProtoBufferReader wire(&owned);
    if (!message.ParseFromZeroCopyStream(&wire)) {
      return absl::InternalError(Concat("the bytes are no ", message.GetTypeName()));
    }
  }
  owned.Clear();
  return tree_bytes;
}

grpc::Status WriteMessage(const google::protobuf::Message& message, grpc::ByteBuffer& bytes) {
  bool owned;
  return grpc::GenericSerialize<grpc::ProtoBufferWriter, google::protobuf::Message>(message, &bytes,
                                                                                    &owned);
}

}  // namespace siglip
