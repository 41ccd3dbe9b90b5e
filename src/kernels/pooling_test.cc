#include "kernels/pooling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kernels/kernel_test_util.h"
#include "kernels/reference.h"

namespace siglip {
namespace {

// The order of a plain attention: project to keys and values, then attend. PoolTokens and
// ProjectHeads with folded weights must give the same.
TEST(PoolingTest, FoldedProbeEqualsPlainAttentionInFloat64) {
  for (const auto& [batch, tokens, heads, head_dim] : std::vector<std::array<std::int64_t, 4>>{
           {1, 1, 1, 1}, {2, 9, 3, 12}, {3, 25, 2, 9}, {1, 31, 4, 40}}) {
    const std::int64_t width = heads * head_dim;
    const auto x = RandomFloats(batch * tokens * width, 1);
    const auto q = RandomFloats(width, 2);
    const float scale = 1 / std::sqrt(static_cast<float>(width));
    const auto wk = RandomFloats(width * width, 3, scale);
    const auto wv = RandomFloats(width * width, 4, scale);
    const auto bk = RandomFloats(width, 5);
    const auto bv = RandomFloats(width, 6);
    reference::Matrix want;
    std::vector<float> scores(static_cast<std::size_t>(batch * tokens * heads));
    for (std::int64_t item = 0; item < batch; ++item) {
      const reference::Matrix rows(x.begin() + item * tokens * width,
                                   x.begin() + (item + 1) * tokens * width);
      const auto keys = reference::Linear(rows, tokens, ToDouble(wk), ToDouble(bk), width, width);
      const auto values = reference::Linear(rows, tokens, ToDouble(wv), ToDouble(bv), width, width);
      const auto one = reference::Attention(ToDouble(q), keys, values, heads, head_dim);
      want.insert(want.end(), one.begin(), one.end());
      for (std::int64_t i = 0; i < tokens * heads; ++i) {
        const std::int64_t token = i / heads;
        double score = 0;  // without the keys' bias, which softmax cancels
        for (std::int64_t c = i % heads * head_dim; c < (i % heads + 1) * head_dim; ++c) {
          for (std::int64_t j = 0; j < width; ++j) {
            score += rows[token * width + j] * wk[c * width + j] * q[c];
          }
        }
        scores[item * tokens * heads + i] =
            static_cast<float>(score / std::sqrt(static_cast<double>(head_dim)));
      }
    }
    ThreadTeam team(3);
    std::vector<float> sums(static_cast<std::size_t>(batch * heads * width), NAN);
    std::vector<float> out(static_cast<std::size_t>(batch * width), NAN);
    PoolTokens(team, {batch, tokens, heads, width, x.data(), scores.data(), sums.data()});
    ProjectHeads(team, {batch, heads, width, sums.data(), wv.data(), bv.data(), out.data()});
    EXPECT_LT(RelativeError(out, want), 2e-6) << heads << " heads of " << head_dim;
  }
}

TEST(PoolingTest, ItemsOfUnequalLengthEqualThemselvesAlone) {
  constexpr std::int64_t kHeads = 2, kWidth = 40;
  const std::vector<std::int64_t> begins = {0, 9, 10, 37};
  const auto x = RandomFloats(begins.back() * kWidth, 1);
  const auto scores = RandomFloats(begins.back() * kHeads, 2);
  ThreadTeam team(2);
  auto weights = scores;
  std::vector<float> together(3 * kHeads * kWidth, NAN);
  PoolTokens(team,
             {3, 27, kHeads, kWidth, x.data(), weights.data(), together.data(), begins.data()});
  for (std::int64_t item = 0; item < 3; ++item) {
    weights = scores;
    std::vector<float> alone(kHeads * kWidth, NAN);
    PoolTokens(
        team, {1, begins[item + 1] - begins[item], kHeads, kWidth, x.data() + begins[item] * kWidth,
               weights.data() + begins[item] * kHeads, alone.data()});
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + item * kHeads * kWidth))
        << "item " << item;
  }
}

}  // namespace
}  // namespace siglip
