#pragma once

// What a protobuf message would cost in memory, told from its bytes: an empty message of two bytes
// becomes an object of hundreds.

#include <cstddef>

#include <google/protobuf/io/zero_copy_stream.h>
#include <google/protobuf/message.h>

#include "absl/status/statusor.h"

namespace siglip {

// Fields of a message and of all messages within it. 128 inputs and outputs with their parameters
// have some thousand; each string of `bytes_contents` is one.
constexpr std::size_t kMaxWireFields = 65536;

// Reads `wire` to its end, takes no memory for it, and returns about how many bytes a message of
// `type` made of it takes. Internal if it is broken; InvalidArgument if it has more than
// kMaxWireFields fields, or if numbers in it would take more than `max_number_bytes` as arrays:
// packed ones may take eight times the bytes that they came in.
absl::StatusOr<std::size_t> CheckWire(const google::protobuf::Descriptor& type,
                                      std::size_t max_number_bytes,
                                      google::protobuf::io::ZeroCopyInputStream& wire);

}  // namespace siglip
