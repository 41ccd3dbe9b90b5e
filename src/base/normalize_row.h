#pragma once

#include <span>

namespace siglip {

// Divides by the Euclidean length, computed in double. A zero row stays zero.
void NormalizeRow(std::span<float> row);

}  // namespace siglip
