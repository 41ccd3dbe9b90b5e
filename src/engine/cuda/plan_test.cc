#include "engine/cuda/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <vector>

#include "checkpoint/tiny_checkpoint_for_test.h"
#include "engine/cuda/host_executor_for_test.h"
#include "engine/engine.h"
#include "engine/reference_towers_for_test.h"
#include "kernels/kernel_test_util.h"

namespace siglip::cuda {
namespace {

using testing::HasSubstr;

// An MLP and patches that have to be padded (50, 588), a text narrower than the vision, pixels past
// the patches.
constexpr const char* kConfig = R"({
  "model_type": "siglip",
  "vision_config": {"hidden_size": 48, "intermediate_size": 50, "num_hidden_layers": 3,
                    "num_attention_heads": 2, "image_size": 45, "patch_size": 14,
                    "layer_norm_eps": 1e-5},
  "text_config": {"hidden_size": 32, "intermediate_size": 23, "num_hidden_layers": 2,
                  "num_attention_heads": 2, "vocab_size": 20, "max_position_embeddings": 7,
                  "projection_size": 48}})";

float TestWeight(const std::string& name, std::int64_t i) { return RandomWeight(name, i, 0.25f); }

class PlanTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = testing::TempDir() + "/siglip_plan_test";
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
    WriteText(folder + "/config.json", kConfig);
    WriteText(folder + "/preprocessor_config.json", R"({"size": {"height": 45, "width": 45}})");
    const auto config = ParseSiglipConfig(kConfig, "config.json");
    ASSERT_TRUE(config.ok()) << config.status();
    ASSERT_TRUE(TowerProgram::Check(*config).ok());
    WriteText(folder + "/model.safetensors",
              SerializeSafetensors(RequiredTensors(*config), TestWeight));
    auto checkpoint = Checkpoint::Open(folder);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = std::make_unique<Checkpoint>(*std::move(checkpoint));
  }

  std::unique_ptr<Checkpoint> checkpoint_;
};

// Both sides are float64; what is left is the folded float32 of probe, biases and addend.
constexpr double kTolerance = 1e-6;

TEST_F(PlanTest, VisionPlansEqualTheReference) {
  const reference::Towers towers(*checkpoint_);
  std::vector<std::vector<float>> images;
  for (std::uint32_t i = 0; i < 3; ++i) images.push_back(RandomFloats(3 * 45 * 45, 10 + i, 0.5f));
  for (const bool fp8 : {false, true}) {
    const TowerProgram program = TowerProgram::Vision(*checkpoint_, {.fp8 = fp8});
    EXPECT_EQ(program.input_elements(9), 3 * 45 * 45);
    const auto got = HostExecutor(program).Run(program.MakePlan(3, 9), images);
    ASSERT_EQ(got.size(), 3 * 48);
    for (std::size_t i = 0; i < images.size(); ++i) {
      const std::vector<float> row(got.begin() + i * 48, got.begin() + (i + 1) * 48);
      EXPECT_LT(RelativeError(row, towers.Image(images[i])), kTolerance) << i << " fp8 " << fp8;
    }
  }
}

TEST_F(PlanTest, TextPlansOfEveryLengthEqualTheReference) {
  const reference::Towers towers(*checkpoint_);
  for (const bool fp8 : {false, true}) {
    const TowerProgram program = TowerProgram::Text(*checkpoint_, {.fp8 = fp8});
    for (std::int64_t length = 1; length <= 7; ++length) {
      std::vector<std::vector<std::int64_t>> texts(2);
      for (std::int64_t t = 0; t < length; ++t) {
        texts[0].push_back((3 + t * t) % 20);
        texts[1].push_back((7 * t) % 20);
      }
      const auto got = HostExecutor(program).Run(program.MakePlan(2, length), texts);
      for (std::size_t i = 0; i < texts.size(); ++i) {
        const std::vector<float> row(got.begin() + i * 48, got.begin() + (i + 1) * 48);
        EXPECT_LT(RelativeError(row, towers.Text(texts[i])), kTolerance) << length << " " << i;
      }
    }
  }
}

// A tokenizer may pad texts to less than the positions that there are.
TEST_F(PlanTest, TextsOfTheUsualLengthArePreparedAndLongerOnesStillFit) {
  const TextConfig& text = checkpoint_->config().text;
  EXPECT_EQ(UsualTokens(text, {}), 7);
  EXPECT_EQ(UsualTokens(text, std::vector<std::int64_t>(7)), 7);
  EXPECT_EQ(UsualTokens(text, std::vector<std::int64_t>(8)), 7);
  const std::vector<std::int64_t> example(5);
  const ProgramOptions options{.text_tokens = UsualTokens(text, example)};
  const TowerProgram shorter = TowerProgram::Text(*checkpoint_, options);
  EXPECT_EQ(shorter.usual_tokens(), 5);
  EXPECT_EQ(shorter.max_tokens(), 7);
  EXPECT_EQ(TowerProgram::Text(*checkpoint_, {}).usual_tokens(), 7);
  EXPECT_EQ(TowerProgram::Vision(*checkpoint_, options).usual_tokens(), 9);
  // Buffers are made for the longest.
  const Plan usual = shorter.MakePlan(2, 5), longest = shorter.MakePlan(2, 7);
  for (std::size_t b = 0; b < kNumBuffers; ++b) {
    EXPECT_LE(usual.elements[b], longest.elements[b]) << b;
  }
}

// 16 bytes is what tensor cores load: every row, and every part of one, starts at a multiple.
TEST_F(PlanTest, RowsOfProductsAreAligned) {
  const auto aligned = [](const Rows& rows) {
    const std::int64_t bytes = ElementOf(rows.buffer) == Element::kByte ? 1 : 2;
    return rows.offset * bytes % 16 == 0 && rows.stride * bytes % 16 == 0;
  };
  for (const bool fp8 : {false, true}) {
    const auto programs = {TowerProgram::Vision(*checkpoint_, {.fp8 = fp8}),
                           TowerProgram::Text(*checkpoint_, {.fp8 = fp8})};
    for (const TowerProgram& program : programs) {
      for (const Op& op : program.MakePlan(2, program.max_tokens()).ops) {
        const auto* linear = std::get_if<LinearOp>(&op);
        if (linear == nullptr) continue;
        EXPECT_TRUE(aligned(linear->x)) << program.weights()[linear->weight].name;
        EXPECT_EQ(linear->k % kWidthMultiple, 0);
        const Weight& weight = program.weights()[linear->weight];
        EXPECT_EQ(weight.columns, linear->k) << weight.name;
        EXPECT_EQ(weight.rows, linear->n * linear->count) << weight.name;
        EXPECT_EQ(weight.storage == Element::kByte, linear->x.buffer == Buffer::kQuantised);
        if (linear->bias != kNone) {
          EXPECT_EQ(program.weights()[linear->bias].storage, ElementOf(linear->y.buffer));
        }
      }
    }
  }
}

// The reference checkpoint, google/siglip-so400m-patch14-384.
TEST(PlanShapesTest, So400mHasTheShapesOfTheLedger) {
  const auto config = ParseSiglipConfig(R"({"model_type": "siglip",
    "vision_config": {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
                      "num_attention_heads": 16, "image_size": 384, "patch_size": 14},
    "text_config": {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
                    "num_attention_heads": 16, "vocab_size": 32000, "projection_size": 1152}})",
                                        "config.json");
  ASSERT_TRUE(config.ok());
  EXPECT_TRUE(TowerProgram::Check(*config).ok());
  EXPECT_EQ(PadWidth(588), 592);
  EXPECT_EQ(PadWidth(4304), 4304);
  EXPECT_EQ(config->vision.num_patches(), 729);
}

TEST(PlanShapesTest, WhatTheKernelsCannotDoIsRefusedByField) {
  SiglipConfig config;
  EXPECT_TRUE(TowerProgram::Check(config).ok());
  const auto message = [&] { return std::string(TowerProgram::Check(config).message()); };
  config.vision.hidden_size = 36;
  EXPECT_THAT(message(), HasSubstr("vision_config.hidden_size: expected a multiple of 16"));
  EXPECT_THAT(message(), HasSubstr("got 36"));
  config.vision.hidden_size = 4096;
  EXPECT_THAT(message(), HasSubstr("got 4096"));
  config.vision.hidden_size = 768;
  config.text.num_attention_heads = 768 / 4;
  EXPECT_THAT(message(), HasSubstr("text_config.hidden_size / num_attention_heads"));
  EXPECT_THAT(message(), HasSubstr("got 4"));
}

}  // namespace
}  // namespace siglip::cuda
