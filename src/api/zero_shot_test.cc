#include "api/zero_shot.h"

#include <cmath>

#include <gtest/gtest.h>

#include "api/fake_model.h"

namespace siglip {
namespace {

TEST(ZeroShotTest, TemplateFillsTextAndLabelEverywhere) {
  EXPECT_EQ(FillTemplate("a {text}, {label} and {text}", "cat"), "a cat, cat and cat");
  EXPECT_EQ(FillTemplate("no place", "cat"), "no place");
}

TEST(ZeroShotTest, ProbabilityIsTheSigmoidOfScaledCosinePlusBias) {
  FakeModel model;
  model.mutable_info().logit_scale = std::log(3.0f);
  model.mutable_info().logit_bias = -1;
  // "ab" embeds to [2, 2], "abcd" to [4, 2].
  const auto classifier = ZeroShotClassifier::Create(model, {"ab", "abcd"}, {"{text}"});
  ASSERT_TRUE(classifier.ok());
  const std::vector<float> image = {1, 1};
  const auto probabilities = classifier->Probabilities(image);
  const double cos_0 = 1, cos_1 = 6 / (std::sqrt(2.0) * std::sqrt(20.0));
  ASSERT_EQ(probabilities.size(), 2u);
  EXPECT_NEAR(probabilities[0], 1 / (1 + std::exp(-(3 * cos_0 - 1))), 1e-6);
  EXPECT_NEAR(probabilities[1], 1 / (1 + std::exp(-(3 * cos_1 - 1))), 1e-6);
}

TEST(ZeroShotTest, SeveralTemplatesAverageNormalisedEmbeddings) {
  FakeModel model;
  const auto classifier = ZeroShotClassifier::Create(model, {"ab"}, {"{text}", "{text}{text}"});
  ASSERT_TRUE(classifier.ok());
  const double x = 1 / std::sqrt(2.0) + 4 / std::sqrt(20.0),
               y = 1 / std::sqrt(2.0) + 2 / std::sqrt(20.0);
  const std::vector<float> image = {1, 0};
  EXPECT_NEAR(classifier->Probabilities(image)[0], 1 / (1 + std::exp(-x / std::hypot(x, y))), 1e-6);
}

TEST(ZeroShotTest, WithoutATemplateThereIsNoClassifier) {
  FakeModel model;
  EXPECT_EQ(CheckTemplates({}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ZeroShotClassifier::Create(model, {"ab"}, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ZeroShotTest, ABadLabelIsNamed) {
  FakeModel model;
  const auto classifier = ZeroShotClassifier::Create(model, {"ok", "\xff"}, {"{text}"});
  EXPECT_EQ(classifier.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ZeroShotClassifier::Create(model, {"big"}, {"{text}"}).status(),
            absl::ResourceExhaustedError("label \"big\": out of memory"));
}

}  // namespace
}  // namespace siglip
