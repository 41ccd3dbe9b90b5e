#pragma once

// What the tests of committed goldens share: how far from transformers in float64 an embedding may
// be (docs/numerics.md), and the instruction set.

#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "siglip/siglip.h"

namespace siglip {

// Twice the error of transformers' own float32 run, at least eight roundings of float32.
inline constexpr double kErrorRatio = 2;
inline constexpr double kErrorFloor = 5e-7;
// In 16-bit integers, for a linear layer; of several, times the root of their number.
inline constexpr double kInt16LayerError = 2e-4;
// The same in 8 bits. Either factor of a product is off by 1/sqrt(12) of a step, and of normal
// numbers, the greatest four times their norm, a step is the 32nd part of it: 9e-3.
inline constexpr double kInt8LayerError = 1.3e-2;
// And in bfloat16, whose factors are off by at most 2^-8, 1/sqrt(3) of it in the mean.
inline constexpr double kBf16LayerError = 3.2e-3;

// What a precision costs in a network of so many linear layers; 0 for fp32.
inline double PrecisionError(const std::string& precision, double layers) {
  if (precision == "int16") return kInt16LayerError * std::sqrt(layers);
  if (precision == "int8") return kInt8LayerError * std::sqrt(layers);
  return precision == "bf16" ? kBf16LayerError * std::sqrt(layers) : 0;
}

using Rows = std::vector<std::vector<double>>;

inline double RelativeError(const std::vector<float>& got, const std::vector<double>& want) {
  if (got.size() != want.size()) return INFINITY;
  double error = 0;
  double norm = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::isfinite(error) ? std::sqrt(error / norm) : INFINITY;
}

// What SIGLIP_TEST_ISA names, else "auto".
inline std::string IsaOfTest() {
  const char* isa = std::getenv("SIGLIP_TEST_ISA");
  return isa == nullptr ? "auto" : isa;
}

// Those of a CPU that this instruction set has.
inline std::vector<std::string> PrecisionsOfTest() {
  std::vector<std::string> precisions = {"fp32", "int16"};
  for (const char* precision : {"int8", "bf16"}) {
    const auto model = Model::Open(
        "models/demo",
        {.num_threads = 1, .precision = precision, .device = "cpu", .isa = IsaOfTest()});
    if (absl::StrContains(model.status().message(), "which needs")) continue;
    precisions.push_back(precision);
  }
  return precisions;
}

}  // namespace siglip
