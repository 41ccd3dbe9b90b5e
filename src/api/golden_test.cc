// The demo checkpoint against transformers in float64 (tests/golden/demo.json), from files and
// texts to embeddings, on the instruction set that SIGLIP_TEST_ISA names.

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "api/golden_for_test.h"
#include "base/file_map.h"
#include "siglip/siglip.h"

namespace siglip {
namespace {

// Of the longer tower.
constexpr double kLinearLayers = 4 * 4;

class GoldenTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::string isa = IsaOfTest();
    auto model =
        Model::Open("models/demo", {.num_threads = 2, .precision = GetParam(), .isa = isa});
    if (absl::StrContains(model.status().message(), "on this machine")) {
      GTEST_SKIP() << model.status();
    }
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    EXPECT_THAT(model_->info().engine, testing::HasSubstr(isa == "auto" ? "cpu" : isa));
    golden_ = nlohmann::json::parse(std::ifstream("tests/golden/demo.json"));
  }

  double Bound(double error_of_float32) const {
    return std::max(
        {kErrorFloor, kErrorRatio * error_of_float32, PrecisionError(GetParam(), kLinearLayers)});
  }

  std::unique_ptr<Model> model_;
  nlohmann::json golden_;
};

INSTANTIATE_TEST_SUITE_P(Precisions, GoldenTest, testing::ValuesIn(PrecisionsOfTest()),
                         [](const auto& precision) { return precision.param; });

TEST_P(GoldenTest, ImagesAreNearTransformersInFloat64) {
  const auto names = golden_["images"].get<std::vector<std::string>>();
  const auto want = golden_["image_embeddings"].get<Rows>();
  const auto float32 = golden_["image_error_of_float32"].get<std::vector<double>>();
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto got = model_->EmbedImage(*ReadFile(names[i], 1 << 24));
    ASSERT_TRUE(got.ok()) << names[i] << ": " << got.status();
    EXPECT_LE(RelativeError(*got, want[i]), Bound(float32[i])) << names[i];
  }
}

TEST_P(GoldenTest, TextsAreNearTransformersInFloat64) {
  const auto texts = golden_["texts"].get<std::vector<std::string>>();
  const auto want = golden_["text_embeddings"].get<Rows>();
  const auto float32 = golden_["text_error_of_float32"].get<std::vector<double>>();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto got = model_->EmbedText(texts[i]);
    ASSERT_TRUE(got.ok()) << texts[i] << ": " << got.status();
    EXPECT_LE(RelativeError(*got, want[i]), Bound(float32[i])) << texts[i];
  }
}

TEST(GoldenComparisonTest, CanFail) {
  const std::vector<double> want = {1, 2, 2};
  EXPECT_EQ(RelativeError({1, 2, 2}, want), 0);
  EXPECT_GT(RelativeError({1.00001f, 2.00002f, 2.00002f}, want), kErrorFloor);
  EXPECT_GT(RelativeError({-1, -2, -2}, want), 1);
  EXPECT_EQ(RelativeError({1, 2, NAN}, want), INFINITY);
  EXPECT_EQ(RelativeError({1, 2}, want), INFINITY);
}

}  // namespace
}  // namespace siglip
