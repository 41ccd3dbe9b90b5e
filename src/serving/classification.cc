#include "serving/classification.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace siglip {
namespace {

// Texts that one output becomes: each takes some twenty bytes where its value had four.
constexpr std::size_t kMaxClasses = std::size_t{1} << 20;

// A BYTES element on the wire: uint32 little-endian length, bytes.
void AppendElement(const std::string& text, std::string& wire) {
  const auto size = static_cast<std::uint32_t>(text.size());
  for (int shift = 0; shift < 32; shift += 8) wire += static_cast<char>((size >> shift) & 0xffu);
  wire += text;
}

std::string ValueAndIndex(float value, std::size_t index) {
  char text[80];
  std::snprintf(text, sizeof(text), "%f:%zu", static_cast<double>(value), index);
  return text;
}

bool Greater(float a, float b) {
  // NaN last, so that the order stays one.
  if (a != a) return false;
  return b != b || a > b;
}

}  // namespace

absl::StatusOr<OutputTensor> Classify(const OutputTensor& output, std::int64_t count,
                                      bool batched) {
  if (output.datatype != DataType::kFp32) {
    const std::string_view type = DataTypeName(output.datatype);
    return absl::InvalidArgumentError(absl::StrCat("output '", output.name,
                                                   "': classification expects FP32, got ",
                                                   absl::string_view(type.data(), type.size())));
  }
  std::vector<float> values(output.data.size() / sizeof(float));
  std::memcpy(values.data(), output.data.data(), values.size() * sizeof(float));
  const auto rows =
      batched && !output.shape.empty() ? static_cast<std::size_t>(output.shape[0]) : 1;
  const std::size_t row_size = rows == 0 ? 0 : values.size() / rows;
  const std::size_t kept =
      std::min(static_cast<std::size_t>(std::max<std::int64_t>(0, count)), row_size);
  if (kept > kMaxClasses / std::max<std::size_t>(rows, 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("output '", output.name, "': classification of ", kept, " values in each of ",
                     rows, " rows is more than the limit of ", kMaxClasses, " values"));
  }
  auto wire = std::make_shared<std::string>();
  for (std::size_t r = 0; r < rows; ++r) {
    const float* row = values.data() + r * row_size;
    std::vector<std::size_t> order(row_size);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(),
                      [row](std::size_t a, std::size_t b) {
                        if (Greater(row[a], row[b])) return true;
                        return !Greater(row[b], row[a]) && a < b;  // the first of equals first
                      });
    for (std::size_t i = 0; i < kept; ++i)
      AppendElement(ValueAndIndex(row[order[i]], order[i]), *wire);
  }
  OutputTensor result;
  result.name = output.name;
  result.datatype = DataType::kBytes;
  if (batched) result.shape.push_back(static_cast<std::int64_t>(rows));
  result.shape.push_back(static_cast<std::int64_t>(kept));
  result.data = std::as_bytes(std::span(*wire));
  result.storage = std::move(wire);
  return result;
}

}  // namespace siglip
