#include "engine/engine.h"

namespace siglip {

std::string PrecisionName(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return "fp32";
    case Precision::kInt16:
      return "int16";
    case Precision::kInt8:
      return "int8";
    case Precision::kAuto:
      return "auto";
    case Precision::kBf16:
      return "bf16";
    case Precision::kFp16:
      return "fp16";
    case Precision::kFp8:
      return "fp8";
  }
  return {};
}

std::optional<Precision> ParsePrecision(std::string_view name) {
  for (const Precision precision :
       {Precision::kFp32, Precision::kInt16, Precision::kInt8, Precision::kAuto, Precision::kBf16,
        Precision::kFp16, Precision::kFp8}) {
    if (name == PrecisionName(precision)) return precision;
  }
  return std::nullopt;
}

}  // namespace siglip
