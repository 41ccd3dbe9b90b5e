#include "kernels/layer_norm.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/kernel_test_util.h"
#include "kernels/reference.h"

namespace siglip {
namespace {

std::vector<float> Normalise(const std::vector<float>& x, const std::vector<float>& weight,
                             const std::vector<float>& bias, float eps, int threads) {
  ThreadTeam team(threads);
  std::vector<float> y(x.size());
  const std::int64_t width = static_cast<std::int64_t>(weight.size());
  LayerNormCall call;
  call.rows = static_cast<std::int64_t>(x.size()) / width;
  call.width = width;
  call.x = x.data();
  call.x_stride = width;
  call.weight = weight.data();
  call.bias = bias.data();
  call.eps = eps;
  call.y = y.data();
  call.y_stride = width;
  LayerNorm(team, call);
  return y;
}

TEST(LayerNormTest, EqualsFloat64AtOddSizesAndWithOutliers) {
  for (const std::int64_t width : {1, 7, 16, 36, 63, 65, 130, 1152}) {
    std::vector<float> x = RandomFloats(21 * width, 1);
    for (std::int64_t row = 0; row < 21; ++row) x[row * width] += 300;  // as real activations have
    const std::vector<float> weight = RandomFloats(width, 2);
    const std::vector<float> bias = RandomFloats(width, 3);
    const auto want = reference::LayerNorm(ToDouble(x), ToDouble(weight), ToDouble(bias), width,
                                           static_cast<double>(1e-6f));
    const auto y = Normalise(x, weight, bias, 1e-6f, 2);
    // Rounding of the mean: eps * 300 / sqrt(width) against a deviation of 300 / sqrt(width).
    EXPECT_LT(RelativeError(y, want), 1e-6) << width;
    EXPECT_EQ(Normalise(x, weight, bias, 1e-6f, 1), y);
  }
}

TEST(LayerNormTest, AConstantRowIsItsBias) {
  for (const std::int64_t width : {1, 2, 7, 36, 768, 1152, 3000}) {
    for (const float value : {3.3f, -0.1f, 1e4f, 7e-4f}) {
      const std::vector<float> x(static_cast<std::size_t>(width), value);
      const std::vector<float> bias(x.size(), 0.25f);
      for (const float y : Normalise(x, std::vector<float>(x.size(), 2), bias, 1e-6f, 1)) {
        EXPECT_NEAR(y, 0.25f, 1e-6f) << width << " " << value;
      }
    }
  }
}

TEST(LayerNormTest, EpsIsUsedAndNotANumberStaysInItsRow) {
  std::vector<float> x = RandomFloats(3 * 20, 1, 0.01f);
  x[25] = NAN;
  const std::vector<float> weight(20, 1.0f);
  const std::vector<float> bias(20, 0.0f);
  const auto y = Normalise(x, weight, bias, 0.5f, 1);
  for (int i = 0; i < 60; ++i) EXPECT_EQ(std::isnan(y[i]), i / 20 == 1);
  x.resize(20);
  const auto want = reference::LayerNorm(ToDouble(x), ToDouble(weight), ToDouble(bias), 20, 0.5);
  EXPECT_LT(RelativeError(Normalise(x, weight, bias, 0.5f, 1), want), 1e-6);
}

}  // namespace
}  // namespace siglip
