#pragma once

// Random inputs and comparison for the tests of the kernels.

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/reference.h"

namespace siglip {

inline std::vector<float> RandomFloats(std::int64_t count, std::uint32_t seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

inline reference::Matrix ToDouble(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

// |got - want| / |want| (Euclidean); infinite if a value is not finite.
inline double RelativeError(const std::vector<float>& got, const reference::Matrix& want) {
  if (got.size() != want.size()) return INFINITY;
  double error = 0;
  double norm = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return norm == 0 ? std::sqrt(error) : std::sqrt(error / norm);
}

}  // namespace siglip
