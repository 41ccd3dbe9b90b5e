// A NaFlex checkpoint against transformers in float64 (tests/golden/naflex, by
// tools/make_naflex_goldens.py), from files and texts to embeddings, on the instruction set that
// SIGLIP_TEST_ISA names; and its laws.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "api/front_model.h"
#include "api/golden_for_test.h"
#include "api/inspect.h"
#include "base/file_map.h"
#include "siglip/siglip.h"

namespace siglip {
namespace {

using testing::HasSubstr;

constexpr const char* kFolder = "tests/golden/naflex";

constexpr double kLinearLayers = 2 * 4;

nlohmann::json Golden() {
  return nlohmann::json::parse(std::ifstream(std::string(kFolder) + "/golden.json"));
}

std::string ErrorOf(const absl::Status& status) { return std::string(status.message()); }

class NaflexTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    options_ = {.num_threads = 2,
                .max_batch_size = 3,
                .precision = GetParam(),
                .device = "cpu",
                .isa = IsaOfTest()};
    auto model = Model::Open(kFolder, options_);
    if (absl::StrContains(model.status().message(), "on this machine")) {
      GTEST_SKIP() << model.status();
    }
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    golden_ = Golden();
  }

  double Bound(double error_of_float32) const {
    return std::max(
        {kErrorFloor, kErrorRatio * error_of_float32, PrecisionError(GetParam(), kLinearLayers)});
  }

  // The golden's pictures, prepared.
  struct Prepared {
    std::vector<std::vector<float>> values;
    std::vector<ImagePixels> images;
  };
  Prepared Prepare() const {
    Prepared prepared;
    for (const std::string name : golden_["images"]) {
      std::vector<float>& values = prepared.values.emplace_back(model_->info().pixel_values());
      const auto grid = model_->Preprocess(*ReadFile(name, 1 << 24), values.data());
      EXPECT_TRUE(grid.ok()) << name << ": " << grid.status();
      prepared.images.push_back({nullptr, *grid});
    }
    for (std::size_t i = 0; i < prepared.images.size(); ++i) {
      prepared.images[i].values = prepared.values[i].data();
    }
    return prepared;
  }

  std::vector<std::vector<float>> Encode(std::span<const ImagePixels> images) {
    std::vector<std::vector<float>> rows(
        images.size(), std::vector<float>(static_cast<std::size_t>(model_->info().embedding_size)));
    std::vector<float*> places;
    for (std::vector<float>& row : rows) places.push_back(row.data());
    const absl::Status status = model_->EncodePixels(images, places);
    EXPECT_TRUE(status.ok()) << status;
    return rows;
  }

  ModelOptions options_;
  std::unique_ptr<Model> model_;
  nlohmann::json golden_;
};

INSTANTIATE_TEST_SUITE_P(Precisions, NaflexTest, testing::ValuesIn(PrecisionsOfTest()),
                         [](const auto& precision) { return precision.param; });

TEST_P(NaflexTest, ImagesAreNearTransformersInFloat64) {
  const auto want = golden_["image_embeddings"].get<Rows>();
  const auto float32 = golden_["image_error_of_float32"].get<std::vector<double>>();
  const Prepared prepared = Prepare();
  for (std::size_t i = 0; i < want.size(); ++i) {
    const std::string name = golden_["images"][i];
    EXPECT_EQ(prepared.images[i].grid.rows, golden_["spatial_shapes"][i][0].get<std::int64_t>());
    EXPECT_EQ(prepared.images[i].grid.columns, golden_["spatial_shapes"][i][1].get<std::int64_t>());
    const auto got = model_->EmbedImage(*ReadFile(name, 1 << 24));
    ASSERT_TRUE(got.ok()) << name << ": " << got.status();
    EXPECT_LE(RelativeError(*got, want[i]), Bound(float32[i])) << name;
  }
}

TEST_P(NaflexTest, TextsAreNearTransformersInFloat64) {
  const auto want = golden_["text_embeddings"].get<Rows>();
  const auto float32 = golden_["text_error_of_float32"].get<std::vector<double>>();
  for (std::size_t i = 0; i < want.size(); ++i) {
    const std::string text = golden_["texts"][i];
    EXPECT_EQ(*model_->Tokenize(text), golden_["ids"][i].get<std::vector<std::int64_t>>()) << text;
    const auto got = model_->EmbedText(text);
    ASSERT_TRUE(got.ok()) << text << ": " << got.status();
    EXPECT_LE(RelativeError(*got, want[i]), Bound(float32[i])) << text;
  }
}

// Ten pictures of ten shapes, in passes of three: neither the others nor what lies past a picture's
// patches is seen.
TEST_P(NaflexTest, ABatchOfManyShapesEqualsItsSinglesBitForBit) {
  Prepared prepared = Prepare();
  const auto together = Encode(prepared.images);
  for (std::size_t i = 0; i < together.size(); ++i) {
    const PatchGrid grid = prepared.images[i].grid;
    const std::size_t used = static_cast<std::size_t>(grid.rows * grid.columns) * 8 * 8 * 3;
    std::fill(prepared.values[i].begin() + static_cast<std::ptrdiff_t>(used),
              prepared.values[i].end(), NAN);
    EXPECT_EQ(Encode({&prepared.images[i], 1})[0], together[i]) << i;
  }
  std::reverse(prepared.images.begin(), prepared.images.end());
  auto reversed = Encode(prepared.images);
  std::reverse(reversed.begin(), reversed.end());
  EXPECT_EQ(reversed, together);
}

TEST_P(NaflexTest, ThreadsAndTheLimitOfPatchesDoNotChangeABitOfAnImage) {
  const Prepared prepared = Prepare();
  const auto want = Encode(prepared.images);
  options_.num_threads = 1;
  options_.max_patches = 150;  // of these pictures none has more than 100
  options_.max_batch_size = 32;
  model_ = *Model::Open(kFolder, options_);
  EXPECT_EQ(Encode(prepared.images), want);
}

TEST_P(NaflexTest, MaxPatchesChoosesTheResolution) {
  options_.max_patches = 17;
  model_ = *Model::Open(kFolder, options_);
  EXPECT_EQ(model_->info().max_patches, 17);
  EXPECT_EQ(model_->info().pixel_values(), 17u * 8 * 8 * 3);
  for (const ImagePixels& image : Prepare().images) {
    EXPECT_LE(image.grid.rows * image.grid.columns, 17);
    EXPECT_GE(image.grid.rows * image.grid.columns, 8);
  }
}

TEST_P(NaflexTest, HostileShapesAreRefusedBeforeAnythingIsRead) {
  std::vector<float> row(static_cast<std::size_t>(model_->info().embedding_size));
  float* const rows[] = {row.data()};
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  for (const PatchGrid grid : {PatchGrid{0, 1},
                               {1, 0},
                               {-1, -1},
                               {101, 1},
                               {10, 11},
                               {kMax, 2},
                               {std::int64_t{1} << 32, std::int64_t{1} << 32},
                               {-kMax - 1, -1}}) {
    const ImagePixels image{nullptr, grid};
    EXPECT_THAT(ErrorOf(model_->EncodePixels({&image, 1}, rows)),
                HasSubstr("image 0: expected 1 to 100 patches"));
  }
  const float* const fixed[] = {nullptr};
  EXPECT_FALSE(model_->EncodePixels(fixed, rows).ok());
}

TEST(NaflexOptionsTest, AreChecked) {
  EXPECT_THAT(ErrorOf(Model::Open(kFolder, {.max_patches = 65537, .isa = IsaOfTest()}).status()),
              HasSubstr("max_patches: expected 0 to 65536"));
  EXPECT_THAT(
      ErrorOf(Model::Open("models/demo", {.max_patches = 256, .isa = IsaOfTest()}).status()),
      HasSubstr("fixed resolution (48 px)"));
  const auto gpu =
      Model::Open(kFolder, {.precision = "bf16", .device = "cuda", .isa = IsaOfTest()});
  EXPECT_EQ(gpu.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(ErrorOf(gpu.status()), HasSubstr("NaFlex checkpoints run on a CPU only"));
}

TEST(NaflexOptionsTest, AutoPrecisionChecksPatches) {
  const auto model = Model::Open(kFolder, {.num_threads = 1, .device = "cpu", .isa = IsaOfTest()});
  if (absl::StrContains(model.status().message(), "on this machine")) {
    GTEST_SKIP() << model.status();
  }
  ASSERT_TRUE(model.ok()) << model.status();
  if (absl::StrContains((*model)->info().precision_choice, "not known to be faster")) {
    GTEST_SKIP() << "int16 is not chosen on this instruction set";
  }
  EXPECT_THAT((*model)->info().precision_choice, HasSubstr("vision 1-cos"));
}

TEST(NaflexFrontModelTest, KnowsHowManyPatches) {
  const auto model = OpenFrontModel(kFolder, {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->info().max_patches, 100);
  EXPECT_EQ((*OpenFrontModel(kFolder, {.max_patches = 7}))->info().max_patches, 7);
  const std::string folder = testing::TempDir() + "naflex_front_test";
  std::filesystem::remove_all(folder);
  std::filesystem::copy(kFolder, folder);
  std::ofstream(folder + "/processor_config.json")
      << R"({"image_processor": {"max_num_patches": 9, "patch_size": 8}})";
  EXPECT_EQ((*OpenFrontModel(folder, {}))->info().max_patches, 9);
  // As large a config.json as the loader of weights takes.
  std::ofstream(folder + "/config.json", std::ios::app) << std::string(2 << 20, ' ');
  const auto large = OpenFrontModel(folder, {});
  EXPECT_TRUE(large.ok()) << large.status();
}

TEST(NaflexInspectTest, SaysWhatItIs) {
  const InspectReport report = InspectCheckpoint(kFolder);
  EXPECT_TRUE(report.ok()) << report.Text();
  EXPECT_THAT(report.Text(), HasSubstr("NaFlex, patch 8, positions 7x7"));
  EXPECT_THAT(report.Text(), HasSubstr("at most 100 patches of 8 px, bilinear"));
}

}  // namespace
}  // namespace siglip
