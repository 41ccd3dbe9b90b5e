#include "base/normalize_row.h"

#include <cmath>

namespace siglip {

void NormalizeRow(std::span<float> row) {
  double sum = 0;
  for (const float value : row) sum += static_cast<double>(value) * static_cast<double>(value);
  if (sum == 0) return;
  const double length = std::sqrt(sum);
  for (float& value : row) value = static_cast<float>(static_cast<double>(value) / length);
}

}  // namespace siglip
