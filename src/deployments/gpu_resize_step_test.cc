// image_process with decode workers and a model that resizes on GPUs. The workers run this program
// too.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_map.h"
#include "deployments/factory.h"
#include "deployments/steps.h"
#include "image/preprocess.h"
#include "workers/decode_worker.h"

namespace siglip {
namespace {

constexpr int kSide = 32;

PreprocessOptions SmallOptions() {
  PreprocessOptions options;
  options.image_size = kSide;
  return options;
}

// Takes pictures of up to max_side; its GPU is the CPU.
class ResizingModel final : public Model {
 public:
  ResizingModel(std::int64_t max_side, std::atomic<int>& resized)
      : max_side_(max_side), resized_(resized) {
    info_.image_size = kSide;
    info_.patch_size = kSide;
    info_.gpu_resize = true;
    info_.pixels = {.rescale_factor = 1.0 / 255.0,
                    .mean = {0.5, 0.5, 0.5},
                    .std = {0.5, 0.5, 0.5},
                    .max_pixels = kPillowMaxPixels};
  }
  const ModelInfo& info() const override { return info_; }
  bool ResizesOnGpu(std::int64_t width, std::int64_t height) const override {
    return std::max(width, height) <= max_side_;
  }
  absl::StatusOr<PatchGrid> PreprocessRgb(const std::uint8_t* rgb, std::int64_t width,
                                          std::int64_t height, float* pixels,
                                          PreprocessTimes* times) const override {
    ++resized_;
    StageTimes stages;
    const auto size = preprocessor_.PreprocessRgb(rgb, width, height, pixels, stages);
    *times = {0, stages.resize_ns, stages.normalize_ns};
    if (!size.ok()) return size.status();
    return PatchGrid{1, 1};
  }

  absl::StatusOr<ImageInfo> InspectImage(std::string_view) const override { return Unused(); }
  absl::StatusOr<PatchGrid> Preprocess(std::string_view, float*, PreprocessTimes*) const override {
    return Unused();
  }
  absl::Status EncodePixels(std::span<const ImagePixels>, std::span<float* const>) override {
    return Unused();
  }
  absl::StatusOr<std::vector<std::int64_t>> Tokenize(std::string_view) const override {
    return Unused();
  }
  absl::StatusOr<std::vector<std::int64_t>> TokenizeUnpadded(std::string_view) const override {
    return Unused();
  }
  absl::Status EncodeTokens(std::span<const std::int64_t* const>, std::int64_t,
                            std::span<float* const>) override {
    return Unused();
  }

 private:
  static absl::Status Unused() { return absl::UnimplementedError("no deployment asks for it"); }

  ModelInfo info_;
  const std::int64_t max_side_;
  std::atomic<int>& resized_;
  const Preprocessor preprocessor_{SmallOptions()};
};

class GpuResizeStepTest : public testing::Test {
 protected:
  void SetUp() override {
    auto workers = DecodeWorkers::Start({.count = 1});
    ASSERT_TRUE(workers.ok()) << workers.status();
    workers_ = *std::move(workers);
  }

  struct Outcome {
    absl::Status status;
    std::vector<float> pixels = std::vector<float>(3 * kSide * kSide);
  };
  static Item ItemOf(const std::string& bytes, Outcome& outcome) {
    Item item;
    item.inputs = {std::as_bytes(std::span(bytes))};
    item.outputs = {std::as_writable_bytes(std::span(outcome.pixels))};
    return item;
  }
  static Outcome Run(Step& step, const std::string& bytes) {
    Outcome outcome;
    Item item = ItemOf(bytes, outcome);
    Item* const items[] = {&item};
    EXPECT_TRUE(step.Run(items).ok());
    outcome.status = item.status;
    return outcome;
  }
  static std::int64_t CostOf(const Step& step, const std::string& bytes) {
    Outcome outcome;
    return step.EstimateCost(ItemOf(bytes, outcome)).value();
  }
  static Outcome Expected(const std::string& bytes) {
    Outcome outcome;
    outcome.status = Preprocessor(SmallOptions()).Preprocess(bytes, outcome.pixels.data()).status();
    return outcome;
  }

  std::shared_ptr<Step> StepWith(std::int64_t max_side) {
    return MakeImageProcessStep(std::make_shared<ResizingModel>(max_side, resized_), *workers_);
  }

  std::unique_ptr<DecodeWorkers> workers_;
  std::atomic<int> resized_ = 0;
};

std::string Picture(const char* name) {
  return *ReadFile(std::string("tests/data/image/") + name, 1 << 24);
}

TEST_F(GpuResizeStepTest, PixelsAreThoseOfTheCpu) {
  const auto step = StepWith(4096);
  int pictures = 0;
  for (const char* name : {"alpha.webp", "alpha.avif", "cmyk.jpg", "depth16_color2.png",
                           "animated.gif", "bilevel.bmp", "cmyk.tif"}) {
    const std::string bytes = Picture(name);
    const Outcome want = Expected(bytes), got = Run(*step, bytes);
    EXPECT_TRUE(want.status.ok()) << name << ": " << want.status;
    EXPECT_EQ(got.status, want.status) << name;
    EXPECT_EQ(got.pixels, want.pixels) << name;
    EXPECT_EQ(resized_, ++pictures) << name;
  }
  const StepCounters counters = step->Counters();
  for (const char* stage : {"decode", "resize", "normalize"}) {
    ASSERT_EQ(counters.stages.count(stage), 1u) << stage;
    EXPECT_EQ(counters.stages.at(stage).count, 7u) << stage;
  }
}

TEST_F(GpuResizeStepTest, WhatTheGpuDoesNotTakeIsTheWorkers) {
  const auto step = StepWith(1);
  const std::string bytes = Picture("cmyk.jpg");
  EXPECT_EQ(Run(*step, bytes).pixels, Expected(bytes).pixels);
  EXPECT_EQ(resized_, 0);
}

TEST_F(GpuResizeStepTest, RefusalsAreThoseOfTheCpu) {
  const auto step = StepWith(4096);
  for (const std::string& bytes :
       {std::string("no picture"), std::string(), Picture("cut.webp"), Picture("bomb.png")}) {
    const absl::Status want = Expected(bytes).status;
    EXPECT_FALSE(want.ok());
    EXPECT_EQ(Run(*step, bytes).status, want);
  }
}

TEST_F(GpuResizeStepTest, WhatLiesBetweenWorkerAndServerIsPartOfTheCost) {
  const auto takes = StepWith(4096);
  const auto leaves = StepWith(1);
  const std::string bytes = Picture("cmyk.jpg");
  const auto header = ReadImageHeader(bytes, kPillowMaxPixels);
  ASSERT_TRUE(header.ok());
  EXPECT_EQ(CostOf(*takes, bytes) - CostOf(*leaves, bytes), 3 * header->width * header->height);
}

// What the deployments' factory chooses: the model's Pillow is 13.
TEST_F(GpuResizeStepTest, OnlyDeploymentsWithTheModelsPillowGoToItsGpus) {
  DeploymentsOptions options;
  options.decode_workers = workers_.get();
  options.open = [this](const std::string&,
                        const ModelOptions&) -> absl::StatusOr<std::unique_ptr<Model>> {
    return std::make_unique<ResizingModel>(4096, resized_);
  };
  DeploymentsFactory factory(options);
  const std::string bytes = Picture("cmyk.jpg");
  for (const char* pillow : {"13", "12"}) {
    ModelConfig config;
    config.name = "siglip_vision_process";
    config.inputs = {{.name = "INPUT_IMAGE", .datatype = DataType::kBytes, .dims = {1}}};
    config.outputs = {{.name = "PIXEL_VALUES", .datatype = DataType::kFp32, .dims = {}}};
    config.parameters = {{"step", "image_process"}, {"checkpoint", "x"}, {"pillow", pillow}};
    const auto deployment = factory.Make(config);
    ASSERT_TRUE(deployment.ok()) << deployment.status();
    EXPECT_EQ(Run(*deployment->step, bytes).pixels, Expected(bytes).pixels);
    EXPECT_EQ(resized_, 1) << pillow;
  }
}

}  // namespace
}  // namespace siglip

int main(int argc, char** argv) {
  if (argc == 2 && argv[1] == siglip::kDecodeWorkerArgument) return siglip::RunDecodeWorker();
  testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
