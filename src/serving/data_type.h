#pragma once

// Element types of the inference protocol.

#include <cstddef>
#include <optional>
#include <string_view>

namespace siglip {

enum class DataType {
  kBool,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kFp16,
  kFp32,
  kFp64,
  kBytes,
  kBf16
};

// The name on the wire: "FP32", "INT64", "BYTES".
std::string_view DataTypeName(DataType type);
std::optional<DataType> ParseDataType(std::string_view name);
// Bytes of an element; 0 for BYTES, whose elements vary.
std::size_t DataTypeSizeBytes(DataType type);

}  // namespace siglip
