#include "engine/precision_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "checkpoint/tiny_checkpoint_for_test.h"
#include "engine/calibration.h"
#include "engine/engine.h"
#include "kernels/target.h"
#include "kernels/test_isa.h"

namespace siglip {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;
namespace fs = std::filesystem;

// More patches than are checked.
constexpr const char* kConfig = R"({
  "model_type": "siglip",
  "vision_config": {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3,
                    "num_attention_heads": 3, "image_size": 41, "patch_size": 4},
  "text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
                  "num_attention_heads": 2, "vocab_size": 50, "max_position_embeddings": 9,
                  "projection_size": 48}})";
constexpr std::int64_t kWidth = 48;
constexpr std::int64_t kPixels = 3 * 41 * 41;

// Activations of order 1 throughout. A sum of four numbers in [-1, 1) instead of a normal one:
// cheap.
float UsualWeight(const std::string& name, std::int64_t i) {
  std::uint64_t state = std::hash<std::string>()(name) + static_cast<std::uint64_t>(i) + 1;
  float value = 0;
  for (int k = 0; k < 4; ++k) {
    state = (state ^ state >> 29) * 0x9e3779b97f4a7c15;
    value += static_cast<float>(state >> 40) * 0x1p-23f - 1;
  }
  const bool norm = name.find("norm") != std::string::npos;
  if (norm && name.ends_with("weight")) return 1 + 0.3f * value;
  return 0.2f * value;
}

// One channel between a layer norm and the layer after it becomes small, and the weights that read
// it large, by a power of two: the same network in float32, bit for bit. In integers the row's
// scale follows its largest weight, the others round to zero, and so does the channel.
class HiddenScale {
 public:
  HiddenScale(std::string tower, std::int64_t width) : tower_(std::move(tower)), width_(width) {}

  float operator()(const std::string& name, std::int64_t i) const {
    const float value = UsualWeight(name, i);
    const std::string layer = tower_ + ".encoder.layers.1.";
    if (name.starts_with(layer + "layer_norm2.") && i == 0) return value * 0x1p-24f;
    if (name == layer + "mlp.fc1.weight" && i % width_ == 0) return value * 0x1p24f;
    return value;
  }

 private:
  std::string tower_;
  std::int64_t width_;
};

class PrecisionCheckTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        absl::StrCat(fs::temp_directory_path().string(), "/siglip_precision_check_", ::getpid());
    cache_ = folder_ + "/cache";
  }
  void TearDown() override { fs::remove_all(folder_); }

  template <class Weight>
  void WriteCheckpoint(const Weight& weight) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    WriteText(folder_ + "/config.json", kConfig);
    WriteText(folder_ + "/preprocessor_config.json", R"({"size": {"height": 41, "width": 41}})");
    const auto config = ParseSiglipConfig(kConfig, "config.json");
    ASSERT_TRUE(config.ok()) << config.status();
    WriteText(folder_ + "/model.safetensors",
              SerializeSafetensors(RequiredTensors(*config), weight));
  }

  std::unique_ptr<Engine> Open(Precision precision, const std::string& cache = "", int threads = 2,
                               const std::vector<std::int64_t>& example_text = {}) const {
    const auto checkpoint = Checkpoint::Open(folder_);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    auto engine = Engine::Open(*checkpoint, {.num_threads = threads,
                                             .precision = precision,
                                             .example_text = example_text,
                                             .cache_dir = cache});
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }

  // Of a picture and a text.
  static std::vector<float> Embed(Engine& engine) {
    std::vector<float> pixels(kPixels);
    for (std::size_t i = 0; i < pixels.size(); ++i) {
      pixels[i] = static_cast<float>(i % 23) / 11 - 1;
    }
    const std::vector<std::int64_t> ids = {3, 1, 4, 1, 5, 9, 2, 6, 5};
    std::vector<float> out(2 * kWidth);
    const float* images[] = {pixels.data()};
    const std::int64_t* texts[] = {ids.data()};
    float* image_rows[] = {out.data()};
    float* text_rows[] = {out.data() + kWidth};
    EXPECT_TRUE(engine.EncodeImages(images, image_rows).ok());
    EXPECT_TRUE(engine.EncodeTexts(texts, 9, text_rows).ok());
    return out;
  }
  std::vector<float> Embed(Precision precision) const { return Embed(*Open(precision)); }

  std::string VerdictFile() const {
    for (const auto& entry : fs::directory_iterator(cache_)) {
      if (entry.path().extension().string().starts_with(".check")) return entry.path();
    }
    return {};
  }

  std::string folder_;
  std::string cache_;
};

// Where int16 is not the faster one, the verdict on it is not asked for.
bool Asked() { return Int16IsFaster(VectorTargetName()); }

TEST_F(PrecisionCheckTest, AutoTakesInt16WithUsualWeightsWhereItIsFaster) {
  WriteCheckpoint(UsualWeight);
  const auto engine = Open(Precision::kAuto);
  const Precision expected = Asked() ? Precision::kInt16 : Precision::kFp32;
  EXPECT_THAT(engine->Describe(), HasSubstr(PrecisionName(expected)));
  EXPECT_THAT(engine->PrecisionChoice(),
              StartsWith(Asked() ? "int16 (vision 1-cos " : "fp32 (int16 is not known"));
  EXPECT_EQ(Embed(*engine), Embed(expected));
  EXPECT_THAT(Open(expected)->PrecisionChoice(), IsEmpty());
}

TEST_F(PrecisionCheckTest, AutoTakesFp32IfOneTowerFails) {
  WriteCheckpoint(UsualWeight);
  const std::vector<float> usual = Embed(Precision::kFp32);
  for (const auto& [tower, width] : {std::pair{"vision_model", 48}, {"text_model", 32}}) {
    WriteCheckpoint(HiddenScale(tower, width));
    ASSERT_EQ(Embed(Precision::kFp32), usual) << "the same network in float32";
    const auto engine = Open(Precision::kAuto);
    EXPECT_THAT(engine->Describe(), HasSubstr("fp32")) << tower;
    EXPECT_THAT(engine->PrecisionChoice(),
                StartsWith(Asked() ? "fp32 (int16 failed its self-check: vision" : "fp32"));
    EXPECT_EQ(Embed(*engine), usual) << tower;
  }
}

// A network that int16 spoils at one token alone: it has a massive activation in an MLP, which
// nothing reads, and beside which integers lose the others.
TEST_F(PrecisionCheckTest, TheExampleTextsPaddingIsLookedAt) {
  const auto config = ParseSiglipConfig(kConfig, "config.json");
  std::vector<std::int64_t> usual = CalibrationText(config->text, 300, 9);
  for (const std::int64_t id :
       ExampleText(config->text, 400, config->text.max_position_embeddings, {}))
    usual.push_back(id);
  std::int64_t padding = 0;
  while (std::count(usual.begin(), usual.end(), padding) > 0) ++padding;
  WriteCheckpoint([padding](const std::string& name, std::int64_t i) {
    if (name == "text_model.embeddings.token_embedding.weight" && i == padding * 32) return 30.0f;
    const std::string layer = "text_model.encoder.layers.1.";
    if (name == layer + "layer_norm2.weight" && i == 0) return 1.0f;
    if (name == layer + "layer_norm2.bias" && i == 0) return 0.0f;
    // Only the padding's first channel is more than four deviations from the mean.
    if (name == layer + "mlp.fc1.weight" && i < 32) return i == 0 ? 2000.0f : 0.0f;
    if (name == layer + "mlp.fc1.bias" && i == 0) return -8000.0f;
    if (name == layer + "mlp.fc2.weight" && i % 64 == 0) return 0.0f;
    return UsualWeight(name, i);
  });
  std::vector<std::int64_t> text = {3, 4};
  text.resize(9, padding);
  EXPECT_THAT(Open(Precision::kAuto)->PrecisionChoice(), StartsWith(Asked() ? "int16 (" : "fp32"));
  EXPECT_THAT(Open(Precision::kAuto, "", 2, text)->PrecisionChoice(),
              StartsWith(Asked() ? "fp32 (int16 failed its self-check" : "fp32"));
  // A verdict is of its text alone.
  EXPECT_THAT(Open(Precision::kAuto, cache_, 2, text)->PrecisionChoice(), StartsWith("fp32"));
  EXPECT_THAT(Open(Precision::kAuto, cache_)->PrecisionChoice(),
              StartsWith(Asked() ? "int16 (" : "fp32"));
}

TEST_F(PrecisionCheckTest, AutoTakesFp32IfNumbersAreNotFinite) {
  WriteCheckpoint([](const std::string& name, std::int64_t i) {
    return name == "text_model.head.bias" && i == 1 ? NAN : UsualWeight(name, i);
  });
  const auto engine = Open(Precision::kAuto);
  EXPECT_THAT(engine->Describe(), HasSubstr("fp32"));
  EXPECT_THAT(engine->PrecisionChoice(), HasSubstr(Asked() ? "text not finite" : "fp32"));
}

TEST_F(PrecisionCheckTest, TheVerdictDoesNotDependOnThreads) {
  WriteCheckpoint(UsualWeight);
  EXPECT_EQ(Open(Precision::kAuto, "", 1)->PrecisionChoice(),
            Open(Precision::kAuto, "", 3)->PrecisionChoice());
}

TEST_F(PrecisionCheckTest, TheCacheRemembersAVerdictUnlessItIsDamaged) {
  if (!Asked()) GTEST_SKIP() << "no verdict is asked for on " << KernelTargetName();
  WriteCheckpoint(UsualWeight);
  const std::string choice = Open(Precision::kAuto, cache_)->PrecisionChoice();
  const std::string path = VerdictFile();
  EXPECT_EQ(Open(Precision::kAuto, cache_)->PrecisionChoice(), choice);
  // What only a reader of the file can answer.
  ASSERT_TRUE(WriteVerdict(path, {.int16_passes = false, .reason = "planted"}).ok());
  EXPECT_EQ(Open(Precision::kAuto, cache_)->PrecisionChoice(),
            "fp32 (int16 failed its self-check: planted)");
  ASSERT_TRUE(WriteVerdict(path, {.int16_passes = true, .reason = "planted"}).ok());
  EXPECT_EQ(Open(Precision::kAuto, cache_)->PrecisionChoice(), "int16 (planted)");
  const std::string good = ReadFile(path, 4096).value();
  std::string flipped = good;
  ASSERT_THAT(good, HasSubstr("planted"));
  flipped[flipped.find("planted")] = 'P';
  for (const std::string& bad : {std::string(), good.substr(0, good.size() - 1), good + "x",
                                 flipped, std::string("int16 passed: \n")}) {
    WriteText(path, bad);
    EXPECT_EQ(Open(Precision::kAuto, cache_)->PrecisionChoice(), choice) << bad;
  }
}

TEST_F(PrecisionCheckTest, AFailedVerdictIsOfTheseWeightsAlone) {
  if (!Asked()) GTEST_SKIP() << "no verdict is asked for on " << KernelTargetName();
  WriteCheckpoint(HiddenScale("vision_model", 48));
  const std::string failed = Open(Precision::kAuto, cache_)->PrecisionChoice();
  EXPECT_THAT(failed, StartsWith("fp32"));
  EXPECT_EQ(Open(Precision::kAuto, cache_)->PrecisionChoice(), failed);
  const std::string kept = absl::StrCat(folder_, "_kept");
  fs::rename(cache_, kept);
  WriteCheckpoint(UsualWeight);
  fs::rename(kept, cache_);
  EXPECT_THAT(Open(Precision::kAuto, cache_)->PrecisionChoice(), StartsWith("int16"));
}

}  // namespace
}  // namespace siglip
