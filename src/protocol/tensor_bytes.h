#pragma once

// The bytes of an input tensor against its shape and datatype, and the bounds of what stands beside
// them: the same for HTTP's binary blocks and gRPC's raw contents.

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "serving/request.h"

namespace siglip {

// Dimensions that a shape may have: as many as numpy has.
inline constexpr int kMaxDims = 64;

// InvalidArgument for more inputs, or wanted outputs, than any model could have: `list` names them.
absl::Status CheckTensorCount(std::string_view list, std::size_t count);

// InvalidArgument for more parameters than any client sends: each costs many times its bytes.
absl::Status CheckParameterCount(std::size_t count);
// InvalidArgument for an id too long to be copied with every step of an ensemble.
absl::Status CheckRequestId(std::string_view id);
// Unimplemented for a sequence_id that is a text longer than Triton's.
absl::Status CheckSequenceId(std::string_view id);

// Splits the wire form of a BYTES tensor, (uint32 little-endian length, bytes) per element, into
// views of it. InvalidArgument unless `bytes` holds exactly `expected` elements.
absl::Status SplitByteElements(std::string_view bytes, std::int64_t expected,
                               std::vector<std::string_view>& elements);

// The element count of input.shape; InvalidArgument for negative dimensions and overflow.
absl::StatusOr<std::int64_t> CheckedElementCount(const InputTensor& input);

// Sets input.data or input.elements to views of `bytes`. REQUIRES: name, datatype and shape are
// set.
absl::Status SetInputBytes(std::string_view bytes, InputTensor& input);

// "[1,3,384,384]"
std::string DimsText(std::span<const std::int64_t> shape);

}  // namespace siglip
