#pragma once

// Attention with one constant query per head, with its key projection folded into the query and its
// value projection applied after the weighted sum (exact in real numbers: the weights sum to 1).

#include <cstdint>

#include "base/thread_pool.h"

namespace siglip {

// sums[item][head] = sum over t of softmax_t(scores[item][t][head]) x[item][t].
struct PoolTokensCall {
  std::int64_t batch = 0;
  std::int64_t tokens = 0;
  std::int64_t heads = 0;
  std::int64_t width = 0;
  const float* x = nullptr;  // [batch, tokens, width]
  float* scores = nullptr;   // [batch, tokens, heads]; overwritten
  float* sums = nullptr;     // [batch, heads, width]
  // [batch + 1]: item i is rows [row_begins[i], row_begins[i + 1]) of x and of the scores. Null:
  // `tokens` of each.
  const std::int64_t* row_begins = nullptr;
};
void PoolTokens(ThreadTeam& team, const PoolTokensCall& call);

// out[item][j] = sums[item][j / head_dim] . w[j] + bias[j], j < heads * head_dim = width.
struct ProjectHeadsCall {
  std::int64_t batch = 0;
  std::int64_t heads = 0;
  std::int64_t width = 0;
  const float* sums = nullptr;  // [batch, heads, width]
  const float* w = nullptr;     // [width, width]
  const float* bias = nullptr;  // [width]
  float* out = nullptr;         // [batch, width]
};
void ProjectHeads(ThreadTeam& team, const ProjectHeadsCall& call);

}  // namespace siglip
