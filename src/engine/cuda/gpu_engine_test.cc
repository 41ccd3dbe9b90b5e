// The engine on a GPU against both towers in float64. Skipped, visibly, without one.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "checkpoint/tiny_checkpoint_for_test.h"
#include "engine/cuda/devices.h"
#include "engine/cuda/host_resizer_for_test.h"
#include "engine/engine.h"
#include "engine/reference_towers_for_test.h"
#include "kernels/kernel_test_util.h"

namespace siglip {
namespace {

using cuda::RandomPass;

// Heads of 72 as in so400m, an MLP and patches that are padded, pixels past the patches.
constexpr const char* kConfig = R"({
  "model_type": "siglip",
  "vision_config": {"hidden_size": 144, "intermediate_size": 300, "num_hidden_layers": 3,
                    "num_attention_heads": 2, "image_size": 115, "patch_size": 14},
  "text_config": {"hidden_size": 64, "intermediate_size": 90, "num_hidden_layers": 2,
                  "num_attention_heads": 2, "vocab_size": 50, "max_position_embeddings": 9,
                  "projection_size": 144}})";
constexpr std::int64_t kPixels = 3 * 115 * 115;
constexpr std::int64_t kWidth = 144;
constexpr std::int64_t kLength = 9;

float Weight(const std::string& name, std::int64_t i) { return RandomWeight(name, i, 0.1f); }

class GpuEngineTest : public testing::TestWithParam<Precision> {
 protected:
  void SetUp() override {
    const auto gpus = ListGpuDevices();
    if (!gpus.ok()) GTEST_SKIP() << "SIGLIP_TEST_SKIPPED: " << gpus.status().message();
    if (gpus->empty()) GTEST_SKIP() << "SIGLIP_TEST_SKIPPED: this machine has no GPU";
    folder_ = testing::TempDir() + "/siglip_gpu_engine_test";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    WriteText(folder_ + "/config.json", kConfig);
    WriteText(folder_ + "/preprocessor_config.json", R"({"size": {"height": 115, "width": 115}})");
    const auto config = ParseSiglipConfig(kConfig, "config.json");
    WriteText(folder_ + "/model.safetensors",
              SerializeSafetensors(RequiredTensors(*config), Weight));
    auto checkpoint = Checkpoint::Open(folder_);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = std::make_unique<Checkpoint>(*std::move(checkpoint));
    for (std::uint32_t i = 0; i < 11; ++i) {
      images_.push_back(RandomFloats(kPixels, 10 + i, 0.5f));
      texts_.emplace_back();
      for (std::int64_t t = 0; t < kLength; ++t) texts_.back().push_back((3 * i + t * t) % 50);
    }
  }

  std::unique_ptr<Engine> Open(int max_batch_size, const std::string& cache_dir = {},
                               bool gpu_resize = false) const {
    auto engine = Engine::Open(*checkpoint_, {.max_batch_size = max_batch_size,
                                              .precision = GetParam(),
                                              .device = "cuda",
                                              .cache_dir = cache_dir,
                                              .gpu_resize = gpu_resize});
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }

  template <class T>
  static std::vector<const T*> Pointers(const std::vector<std::vector<T>>& values) {
    std::vector<const T*> pointers;
    for (const auto& value : values) pointers.push_back(value.data());
    return pointers;
  }
  static std::vector<std::vector<float>> Images(Engine& engine,
                                                const std::vector<std::vector<float>>& images) {
    std::vector<std::vector<float>> out(images.size(), std::vector<float>(kWidth, NAN));
    std::vector<float*> rows;
    for (auto& row : out) rows.push_back(row.data());
    const absl::Status status = engine.EncodeImages(Pointers(images), rows);
    EXPECT_TRUE(status.ok()) << status;
    return out;
  }
  static std::vector<std::vector<float>> Texts(
      Engine& engine, const std::vector<std::vector<std::int64_t>>& texts) {
    std::vector<std::vector<float>> out(texts.size(), std::vector<float>(kWidth, NAN));
    std::vector<float*> rows;
    for (auto& row : out) rows.push_back(row.data());
    const absl::Status status =
        engine.EncodeTexts(Pointers(texts), static_cast<std::int64_t>(texts[0].size()), rows);
    EXPECT_TRUE(status.ok()) << status;
    return out;
  }

  // Roundings of 3 layers add up as the root of their number, some 8 per layer, each 0.3 units in
  // the last place of 8, 11 or 4 bits of significand; the last is that of e4m3.
  double Tolerance() const {
    const double unit = GetParam() == Precision::kBf16   ? std::ldexp(1.0, -8)
                        : GetParam() == Precision::kFp16 ? std::ldexp(1.0, -11)
                                                         : std::ldexp(1.0, -4);
    return 0.3 * unit * std::sqrt(3 * 8.0) * 2;
  }

  std::string folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::vector<std::vector<float>> images_;
  std::vector<std::vector<std::int64_t>> texts_;
};

// Not skipped where the GPU has no fp8: bench/gpu.py takes a skipped test for one that proved
// nothing.
std::vector<Precision> PrecisionsHere() {
  std::vector<Precision> precisions = {Precision::kBf16, Precision::kFp16};
  const auto gpus = ListGpuDevices();
  if (!gpus.ok() || gpus->empty() || gpus->front().compute_capability == 90) {
    precisions.push_back(Precision::kFp8);
  }
  return precisions;
}

INSTANTIATE_TEST_SUITE_P(Precisions, GpuEngineTest, testing::ValuesIn(PrecisionsHere()),
                         [](const auto& precision) { return PrecisionName(precision.param); });

TEST_P(GpuEngineTest, BothTowersEqualFloat64InEveryBatchSize) {
  const reference::Towers towers(*checkpoint_);
  const auto engine = Open(8);
  std::vector<reference::Matrix> images, texts;
  for (const auto& image : images_) images.push_back(towers.Image(image));
  for (const auto& text : texts_) texts.push_back(towers.Text(text));
  for (std::size_t count = 1; count <= images_.size(); ++count) {
    const auto got_images = Images(*engine, {images_.begin(), images_.begin() + count});
    const auto got_texts = Texts(*engine, {texts_.begin(), texts_.begin() + count});
    for (std::size_t i = 0; i < count; ++i) {
      EXPECT_LT(RelativeError(got_images[i], images[i]), Tolerance()) << count << " " << i;
      EXPECT_LT(RelativeError(got_texts[i], texts[i]), Tolerance()) << count << " " << i;
    }
  }
}

TEST_P(GpuEngineTest, ShorterTextsTakeTheirOwnLastPosition) {
  const reference::Towers towers(*checkpoint_);
  const auto engine = Open(4);
  for (std::int64_t length = 1; length < kLength; ++length) {
    const std::vector<std::int64_t> ids(texts_[1].begin(), texts_[1].begin() + length);
    EXPECT_LT(RelativeError(Texts(*engine, {ids})[0], towers.Text(ids)), Tolerance()) << length;
  }
}

// The usual length has the graphs, the others have none.
TEST_P(GpuEngineTest, TextsOfEveryLengthAreRightWhateverLengthIsUsual) {
  const reference::Towers towers(*checkpoint_);
  const auto engine = Engine::Open(
      *checkpoint_, {.max_batch_size = 2,
                     .precision = GetParam(),
                     .device = "cuda",
                     .example_text = {texts_[0].begin(), texts_[0].begin() + kLength - 3}});
  ASSERT_TRUE(engine.ok()) << engine.status();
  for (std::int64_t length = 1; length <= kLength; ++length) {
    const std::vector<std::int64_t> ids(texts_[1].begin(), texts_[1].begin() + length);
    EXPECT_LT(RelativeError(Texts(**engine, {ids})[0], towers.Text(ids)), Tolerance()) << length;
  }
}

TEST_P(GpuEngineTest, CallsFromManyThreadsGetTheirOwnAnswers) {
  const auto engine = Open(4);
  const auto images = Images(*engine, {images_.begin(), images_.begin() + 4});
  const auto texts = Texts(*engine, {texts_.begin(), texts_.begin() + 4});
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i) {
        if (t % 2 == 0) {
          EXPECT_EQ(Images(*engine, {images_.begin(), images_.begin() + 4}), images);
        } else {
          EXPECT_EQ(Texts(*engine, {texts_.begin(), texts_.begin() + 4}), texts);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_P(GpuEngineTest, NotANumberInIsNotANumberOutAndNoFault) {
  const auto engine = Open(4);
  const auto want = Images(*engine, {images_.begin(), images_.begin() + 4});
  images_[2][0] = NAN;
  const auto got = Images(*engine, {images_.begin(), images_.begin() + 4});
  EXPECT_EQ(got[1], want[1]);
  EXPECT_TRUE(std::isnan(got[2][0]));
  EXPECT_TRUE(engine->Health().ok());
}

TEST_P(GpuEngineTest, FoundAlgorithmsComeBack) {
  const std::string cache = folder_ + "/cache";
  const auto files = [&] {
    std::vector<std::string> texts;
    for (const auto& entry : std::filesystem::directory_iterator(cache)) {
      std::ifstream file(entry.path());
      texts.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    return texts;
  };
  const auto first = Images(*Open(2, cache), images_);
  const auto found = files();
  ASSERT_EQ(found.size(), 1);
  const auto second = Images(*Open(2, cache), images_);
  EXPECT_EQ(files(), found);  // a search would have written other times
  // Not the same bits: which attention is the faster one is measured anew.
  for (std::size_t i = 0; i < first.size(); ++i) {
    EXPECT_LT(RelativeError(second[i], ToDouble(first[i])), Tolerance()) << i;
  }
}

TEST_P(GpuEngineTest, GpusAndPrecisionsThatAreNotThereAreRefused) {
  const auto engine = Engine::Open(*checkpoint_, {.precision = GetParam(), .device = "cuda:1000"});
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kFailedPrecondition);
  const auto wrong = Engine::Open(*checkpoint_, {.precision = Precision::kFp32, .device = "cuda"});
  EXPECT_EQ(wrong.status().code(), absl::StatusCode::kInvalidArgument);
}

constexpr std::int32_t kSide = 115;  // the checkpoint's

TEST_P(GpuEngineTest, ResizesBesideTheTowersToTheBytesOfTheHost) {
  EXPECT_EQ(Open(1)->resizer(), nullptr);
  const auto engine = Open(4, {}, true);
  ASSERT_NE(engine->resizer(), nullptr);
  EXPECT_EQ(engine->resizer()->num_places(), 2);
  const auto images = Images(*engine, {images_.begin(), images_.begin() + 4});
  std::atomic<int> done = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (const auto& [width, height] : std::vector<std::pair<int, int>>{
               {500, 375}, {375, 500}, {1, 900}, {900, 1}, {4096, 4096}, {16384, 1024}}) {
        const bool vertical_first = t % 2 == 0;
        cuda::ResizeCase want(width, height, kSide, vertical_first);
        cuda::ResizeCase got(width, height, kSide, vertical_first);
        ASSERT_TRUE(cuda::HostResizer(kSide).Resize(want.resize).value());
        const auto taken = engine->resizer()->Resize(got.resize);
        ASSERT_TRUE(taken.ok()) << taken.status();
        if (!*taken) continue;  // both places were in use
        ++done;
        EXPECT_TRUE(got.out == want.out) << width << "x" << height;
      }
    });
  }
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(Images(*engine, {images_.begin(), images_.begin() + 4}), images);
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(done, 0);
  EXPECT_TRUE(engine->Health().ok());
  EXPECT_FALSE(engine->resizer()->Takes(4097, 4096));
}

TEST_P(GpuEngineTest, DescribesItself) {
  EXPECT_THAT(Open(1)->Describe(),
              testing::MatchesRegex(".+ \\(cuda:0, sm_[0-9]+\\), (bf16|fp16|fp8), .*"));
}

}  // namespace
}  // namespace siglip
