// Stands in for src/serving until it is there.
#include "serving/data_type.h"

namespace siglip {
namespace {
constexpr struct {
  DataType type;
  std::string_view name;
  std::size_t bytes;
} kTypes[] = {{DataType::kBool, "BOOL", 1},     {DataType::kUint8, "UINT8", 1},
              {DataType::kUint16, "UINT16", 2}, {DataType::kUint32, "UINT32", 4},
              {DataType::kUint64, "UINT64", 8}, {DataType::kInt8, "INT8", 1},
              {DataType::kInt16, "INT16", 2},   {DataType::kInt32, "INT32", 4},
              {DataType::kInt64, "INT64", 8},   {DataType::kFp16, "FP16", 2},
              {DataType::kFp32, "FP32", 4},     {DataType::kFp64, "FP64", 8},
              {DataType::kBytes, "BYTES", 0},   {DataType::kBf16, "BF16", 2}};
}  // namespace

std::string_view DataTypeName(DataType type) {
  for (const auto& row : kTypes) {
    if (row.type == type) return row.name;
  }
  return "";
}

std::optional<DataType> ParseDataType(std::string_view name) {
  for (const auto& row : kTypes) {
    if (row.name == name) return row.type;
  }
  return std::nullopt;
}

std::size_t DataTypeSizeBytes(DataType type) {
  for (const auto& row : kTypes) {
    if (row.type == type) return row.bytes;
  }
  return 0;
}

}  // namespace siglip
