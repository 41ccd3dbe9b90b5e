#pragma once

// The constant query of the vision tower's pooling head, as every engine uses it.

#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace siglip {

inline constexpr const char* kPoolingHead = "vision_model.head.";

// u [heads, width]: u[h] = Wk_h^T q_h / sqrt(head_dim), q = Wq probe + bq, in float64. x . u[h] is
// then the score of x but for q_h . bk_h, which is the same for every token and cancels in the
// softmax.
std::vector<float> FoldedProbe(const Checkpoint& checkpoint);

// A whole tensor as float32.
std::vector<float> LoadTensor(const Checkpoint& checkpoint, const std::string& name);

}  // namespace siglip
