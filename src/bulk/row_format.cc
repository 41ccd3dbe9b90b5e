#include "bulk/row_format.h"

#include <array>
#include <charconv>
#include <cmath>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "bulk/half.h"

namespace siglip::bulk {

std::string NpyHeader(DType dtype, std::uint64_t rows, std::uint64_t columns) {
  // Source: numpy/lib/format.py, version 1.0: magic, version, little-endian uint16 length of the
  // rest.
  std::string header("\x93NUMPY\x01\x00", 8);
  constexpr std::size_t kRest = kNpyHeaderBytes - 10;
  header += static_cast<char>(kRest & 0xff);
  header += static_cast<char>(kRest >> 8);
  header += absl::StrCat("{'descr': '", dtype == DType::kFloat32 ? "<f4" : "<f2",
                         "', 'fortran_order': False, 'shape': (", rows, ", ", columns, "), }");
  header.resize(kNpyHeaderBytes - 1, ' ');
  return header + '\n';
}

void AppendNpyRow(DType dtype, std::span<const float> row, std::string& out) {
  if (dtype == DType::kFloat32) {
    out.append(reinterpret_cast<const char*>(row.data()), row.size_bytes());
    return;
  }
  for (const float value : row) {
    const std::uint16_t half = HalfBits(value);
    out += static_cast<char>(half & 0xff);
    out += static_cast<char>(half >> 8);
  }
}

void AppendJsonRow(DType dtype, Item::Kind kind, std::string_view name, std::span<const float> row,
                   std::string& out) {
  absl::StrAppend(&out, "{",
                  kind == Item::Kind::kImage ? "\"image\":" : "\"text\":", JsonString(name),
                  ",\"embedding\":[");
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (i > 0) out += ',';
    AppendJsonFloat(dtype == DType::kFloat32 ? row[i] : FloatOfHalf(HalfBits(row[i])), out);
  }
  out += "]}\n";
}

std::string JsonString(std::string_view text) {
  return nlohmann::json(std::string(text))
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string FailureLine(std::string_view name, std::string_view error) {
  return absl::StrCat("{\"name\":", JsonString(name), ",\"error\":", JsonString(error), "}\n");
}

void AppendJsonFloat(float value, std::string& out) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  std::array<char, 32> digits;
  const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  out.append(digits.data(), end);
}

}  // namespace siglip::bulk
