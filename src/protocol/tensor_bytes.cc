#include "protocol/tensor_bytes.h"

#include <algorithm>
#include <cstring>

#include "base/checked_math.h"
#include "base/status_macros.h"
#include "protocol/text.h"

namespace siglip {
namespace {

// Our models have one input and one output; the cap bounds the work of a hostile list.
constexpr std::size_t kMaxTensors = 128;

// Clients send a handful, beside them stand the headers that are forwarded.
constexpr std::size_t kMaxParameters = 256;

// Ids are counters and UUIDs; Triton has no bound.
constexpr std::size_t kMaxIdBytes = 64 << 10;

// Triton's, which its text calls characters.
constexpr std::size_t kMaxSequenceIdBytes = 128;

constexpr std::size_t kLengthPrefix = sizeof(std::uint32_t);

std::uint32_t LoadLength(const char* bytes) {
  unsigned char b[kLengthPrefix];
  std::memcpy(b, bytes, sizeof(b));
  return b[0] | b[1] << 8 | b[2] << 16 | static_cast<std::uint32_t>(b[3]) << 24;
}

}  // namespace

std::string DimsText(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) AppendAll(text, i == 0 ? "" : ",", shape[i]);
  text += ']';
  return text;
}

absl::Status CheckTensorCount(std::string_view list, std::size_t count) {
  if (count <= kMaxTensors) return absl::OkStatus();
  return absl::InvalidArgumentError(Concat(list, ": more than ", kMaxTensors, " entries"));
}

absl::Status CheckParameterCount(std::size_t count) {
  if (count <= kMaxParameters) return absl::OkStatus();
  return absl::InvalidArgumentError(Concat("parameters: more than ", kMaxParameters, " entries"));
}

absl::Status CheckRequestId(std::string_view id) {
  if (id.size() <= kMaxIdBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      Concat("id: expected at most ", kMaxIdBytes, " bytes, got ", id.size()));
}

absl::Status CheckSequenceId(std::string_view id) {
  if (id.size() <= kMaxSequenceIdBytes) return absl::OkStatus();
  return absl::UnimplementedError(
      Concat("string correlation ID cannot be longer than ", kMaxSequenceIdBytes, " characters"));
}

absl::Status SplitByteElements(std::string_view bytes, std::int64_t expected,
                               std::vector<std::string_view>& elements) {
  elements.clear();
  // Each element takes at least its prefix: a large shape alone reserves nothing.
  elements.reserve(std::min<std::uint64_t>(expected, bytes.size() / kLengthPrefix));
  const std::size_t total = bytes.size();
  while (!bytes.empty()) {
    const std::size_t offset = total - bytes.size();
    if (std::cmp_greater_equal(elements.size(), expected)) {
      return absl::InvalidArgumentError(Concat("unexpected number of string elements, expecting ",
                                               expected, ", got more at byte ", offset));
    }
    if (bytes.size() < kLengthPrefix) {
      return absl::InvalidArgumentError(Concat("incomplete string length indicator at byte ",
                                               offset, ", expecting ", kLengthPrefix,
                                               " bytes but only ", bytes.size(), " are left"));
    }
    const std::uint32_t length = LoadLength(bytes.data());
    bytes.remove_prefix(kLengthPrefix);
    if (length > bytes.size()) {
      return absl::InvalidArgumentError(Concat("incomplete string data at byte ", offset,
                                               ", expecting string of length ", length,
                                               " but only ", bytes.size(), " bytes are left"));
    }
    elements.push_back(bytes.substr(0, length));
    bytes.remove_prefix(length);
  }
  if (std::cmp_not_equal(elements.size(), expected)) {
    return absl::InvalidArgumentError(Concat("unexpected number of string elements, expecting ",
                                             expected, ", got ", elements.size()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::int64_t> CheckedElementCount(const InputTensor& input) {
  const std::optional<std::int64_t> count = ElementCount(input.shape);
  if (!count) {
    return absl::InvalidArgumentError(
        Concat("input '", input.name, "': shape ", DimsText(input.shape),
               " must have dimensions of at least 0 and a product that fits 63 bits"));
  }
  return *count;
}

absl::Status SetInputBytes(std::string_view bytes, InputTensor& input) {
  SIGLIP_ASSIGN_OR_RETURN(const std::int64_t count, CheckedElementCount(input));
  if (input.datatype == DataType::kBytes) {
    const absl::Status split = SplitByteElements(bytes, count, input.elements);
    if (split.ok()) return split;
    return absl::InvalidArgumentError(
        Concat(split.message(), " for inference input '", input.name, "'"));
  }
  const auto element = static_cast<std::int64_t>(DataTypeSizeBytes(input.datatype));
  const std::optional<std::int64_t> expected = CheckedMul(count, element);
  if (!expected || std::cmp_not_equal(*expected, bytes.size())) {
    return absl::InvalidArgumentError(
        Concat("input byte size mismatch for input '", input.name, "': expected ",
               expected ? Concat(*expected) : std::string("more than 63 bits of"), " bytes for ",
               DataTypeName(input.datatype), " ", DimsText(input.shape), ", got ", bytes.size()));
  }
  input.data = std::as_bytes(std::span(bytes.data(), bytes.size()));
  return absl::OkStatus();
}

}  // namespace siglip
