#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <thread>
#include <vector>

#include "checkpoint/tiny_checkpoint_for_test.h"
#include "engine/cpu_engine.h"
#include "engine/reference_towers_for_test.h"
#include "kernels/kernel_test_util.h"
#include "kernels/test_isa.h"

namespace siglip {
namespace {

using testing::HasSubstr;

// Widths that are no multiple of any vector, a text narrower than the vision, an image with pixels
// past its patches.
constexpr const char* kConfig = R"({
  "model_type": "siglip",
  "vision_config": {"hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 3,
                    "num_attention_heads": 3, "image_size": 45, "patch_size": 14,
                    "layer_norm_eps": 1e-5},
  "text_config": {"hidden_size": 18, "intermediate_size": 23, "num_hidden_layers": 2,
                  "num_attention_heads": 2, "vocab_size": 20, "max_position_embeddings": 7,
                  "projection_size": 36}})";
constexpr std::int64_t kSide = 45;
constexpr std::int64_t kWidth = 36;
constexpr std::int64_t kLength = 7;

// Weights of about 1 / sqrt(inputs), layer norms near 1: activations of order 1 throughout.
float Weight(const std::string& name, std::int64_t i) { return RandomWeight(name, i, 0.25f); }

class EngineTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = testing::TempDir() + "/siglip_engine_test";
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
    WriteText(folder + "/config.json", kConfig);
    WriteText(folder + "/preprocessor_config.json", R"({"size": {"height": 45, "width": 45}})");
    const auto config = ParseSiglipConfig(kConfig, "config.json");
    ASSERT_TRUE(config.ok()) << config.status();
    WriteText(folder + "/model.safetensors",
              SerializeSafetensors(RequiredTensors(*config), Weight));
    auto checkpoint = Checkpoint::Open(folder);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = std::make_unique<Checkpoint>(*std::move(checkpoint));
    for (std::uint32_t i = 0; i < 5; ++i) {
      images_.push_back(RandomFloats(3 * kSide * kSide, 10 + i, 0.5f));
      std::vector<std::int64_t> ids;
      for (std::int64_t t = 0; t < kLength; ++t) ids.push_back((3 * i + t * t) % 20);
      texts_.push_back(ids);
    }
  }

  std::unique_ptr<Engine> Open(int threads, int max_batch_size = 32,
                               Precision precision = Precision::kFp32) const {
    auto engine = Engine::Open(
        *checkpoint_,
        {.num_threads = threads, .max_batch_size = max_batch_size, .precision = precision});
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }

  static std::vector<std::vector<float>> Images(Engine& engine,
                                                const std::vector<std::vector<float>>& images) {
    std::vector<std::vector<float>> out(images.size(), std::vector<float>(kWidth, NAN));
    std::vector<const float*> in;
    std::vector<float*> rows;
    for (std::size_t i = 0; i < images.size(); ++i) {
      in.push_back(images[i].data());
      rows.push_back(out[i].data());
    }
    EXPECT_TRUE(engine.EncodeImages(in, rows).ok());
    return out;
  }

  static std::vector<std::vector<float>> Texts(Engine& engine,
                                               const std::vector<std::vector<std::int64_t>>& texts,
                                               std::int64_t length = kLength) {
    std::vector<std::vector<float>> out(texts.size(), std::vector<float>(kWidth, NAN));
    std::vector<const std::int64_t*> in;
    std::vector<float*> rows;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      in.push_back(texts[i].data());
      rows.push_back(out[i].data());
    }
    EXPECT_TRUE(engine.EncodeTexts(in, length, rows).ok());
    return out;
  }

  std::unique_ptr<Checkpoint> checkpoint_;
  std::vector<std::vector<float>> images_;
  std::vector<std::vector<std::int64_t>> texts_;
};

// Rounding of 3 layers of activations near 1: some eps per layer and stage.
constexpr double kTolerance = 3e-6;

// Each linear layer in 16-bit integers is off by about 2e-4 (see gemm_test.cc), and so are the at
// most 3 x 4 of them together by the root of their number.
constexpr double kInt16Tolerance = 2e-4 * 3.5;

// In 8 bits about 1.3e-2, in bfloat16 3.2e-3 (api/golden_for_test.h says why).
constexpr double kInt8Tolerance = 1.3e-2 * 3.5;
constexpr double kBf16Tolerance = 3.2e-3 * 3.5;

std::vector<Precision> PrecisionsOfTest() {
  const std::vector<GemmFormat> formats = FormatsOfTest();
  std::vector<Precision> precisions;
  for (const Precision precision :
       {Precision::kFp32, Precision::kInt16, Precision::kInt8, Precision::kBf16}) {
    if (std::find(formats.begin(), formats.end(), FormatOf(precision)) == formats.end()) continue;
    precisions.push_back(precision);
  }
  return precisions;
}

class EnginePrecisionTest : public EngineTest, public testing::WithParamInterface<Precision> {
 protected:
  std::unique_ptr<Engine> Open(int threads, int max_batch_size = 32) const {
    return EngineTest::Open(threads, max_batch_size, GetParam());
  }
};

INSTANTIATE_TEST_SUITE_P(Precisions, EnginePrecisionTest, testing::ValuesIn(PrecisionsOfTest()),
                         [](const auto& precision) { return PrecisionName(precision.param); });

TEST_P(EnginePrecisionTest, BothTowersEqualFloat64) {
  double tolerance = kTolerance;
  if (GetParam() == Precision::kInt16) tolerance = kInt16Tolerance;
  if (GetParam() == Precision::kInt8) tolerance = kInt8Tolerance;
  if (GetParam() == Precision::kBf16) tolerance = kBf16Tolerance;
  const auto engine = Open(2);
  const reference::Towers towers(*checkpoint_);
  const auto images = Images(*engine, images_);
  const auto texts = Texts(*engine, texts_);
  for (std::size_t i = 0; i < images_.size(); ++i) {
    EXPECT_LT(RelativeError(images[i], towers.Image(images_[i])), tolerance) << "image " << i;
    EXPECT_LT(RelativeError(texts[i], towers.Text(texts_[i])), tolerance) << "text " << i;
  }
}

TEST_F(EngineTest, ShorterTextsTakeTheirOwnLastPosition) {
  const auto engine = Open(1);
  const reference::Towers towers(*checkpoint_);
  for (std::int64_t length = 1; length <= kLength; ++length) {
    const std::vector<std::int64_t> ids(texts_[1].begin(), texts_[1].begin() + length);
    EXPECT_LT(RelativeError(Texts(*engine, {ids}, length)[0], towers.Text(ids)), kTolerance);
  }
}

TEST_P(EnginePrecisionTest, BatchThreadsAndPassesChangeNoBit) {
  const auto one = Open(1);
  const auto images = Images(*one, images_);
  const auto texts = Texts(*one, texts_);
  for (const auto& [threads, batch] : {std::pair{3, 32}, {2, 2}, {1, 1}}) {
    const auto other = Open(threads, batch);
    EXPECT_EQ(Images(*other, images_), images) << threads << " threads, batch " << batch;
    EXPECT_EQ(Texts(*other, texts_), texts) << threads << " threads, batch " << batch;
    EXPECT_EQ(Images(*other, {images_[3]})[0], images[3]);
    EXPECT_EQ(Texts(*other, {texts_[3]})[0], texts[3]);
  }
}

TEST_P(EnginePrecisionTest, PixelsPastThePatchesAreNotReadAndNotANumberStaysInItsItem) {
  const auto engine = Open(2);
  const auto want = Images(*engine, images_);
  for (std::int64_t i = 0; i < 3 * kSide * kSide; ++i) {
    if (i % kSide >= 42 || i / kSide % kSide >= 42) images_[0][i] = NAN;
  }
  images_[2][0] = NAN;
  const auto got = Images(*engine, images_);
  EXPECT_EQ(got[0], want[0]);
  EXPECT_EQ(got[1], want[1]);
  EXPECT_EQ(got[3], want[3]);
  for (const float value : got[2]) EXPECT_TRUE(std::isnan(value));
}

TEST_F(EngineTest, IdsOutsideTheVocabularyAreRefusedByNameBeforeAnythingRuns) {
  const auto engine = Open(1);
  for (const std::int64_t bad : {std::int64_t{20}, std::int64_t{-1}, INT64_MAX, INT64_MIN}) {
    auto texts = texts_;
    texts[1][4] = bad;
    std::vector<float> out(2 * kWidth, 5.0f);
    const std::vector<const std::int64_t*> in = {texts[0].data(), texts[1].data()};
    const std::vector<float*> rows = {out.data(), out.data() + kWidth};
    const absl::Status status = engine->EncodeTexts(in, kLength, rows);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("text 1, position 4"));
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("got ", bad)));
    EXPECT_EQ(out, std::vector<float>(2 * kWidth, 5.0f));
  }
}

TEST_F(EngineTest, WrongSizesAreRefused) {
  const auto engine = Open(1);
  std::vector<float> out(kWidth);
  const std::vector<const std::int64_t*> ids = {texts_[0].data()};
  const std::vector<float*> rows = {out.data()};
  EXPECT_FALSE(engine->EncodeTexts(ids, 0, rows).ok());
  EXPECT_FALSE(engine->EncodeTexts(ids, kLength + 1, rows).ok());
  EXPECT_FALSE(engine->EncodeTexts(ids, kLength, {}).ok());
  EXPECT_FALSE(engine->EncodeImages({}, rows).ok());
  EXPECT_TRUE(engine->EncodeImages({}, {}).ok());
  EXPECT_TRUE(engine->EncodeTexts({}, kLength, {}).ok());
  EXPECT_FALSE(Engine::Open(*checkpoint_, {.num_threads = -1}).ok());
  EXPECT_FALSE(Engine::Open(*checkpoint_, {.num_threads = 1, .max_batch_size = 0}).ok());
}

TEST_F(EngineTest, CallsFromSeveralThreadsQueue) {
  const auto engine = Open(2);
  const auto images = Images(*engine, images_);
  const auto texts = Texts(*engine, texts_);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      if (i % 2 == 0) {
        EXPECT_EQ(Images(*engine, images_), images);
      } else {
        EXPECT_EQ(Texts(*engine, texts_), texts);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(EngineTest, DescribesItself) {
  EXPECT_THAT(Open(2)->Describe(), testing::MatchesRegex("cpu, .+, fp32, 2 threads"));
  EXPECT_GT(Open(1)->memory_bytes(), 4 * checkpoint_->num_parameters());
  EXPECT_THAT(Open(1, 1, Precision::kInt16)->Describe(),
              testing::MatchesRegex("cpu, .+, int16, 1 thread"));
}

}  // namespace
}  // namespace siglip
