// What a NaFlex checkpoint makes of pictures, against Siglip2ImageProcessorPil
// (tests/golden/naflex/golden.json, by tools/make_naflex_goldens.py).

#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/cord.h"
#include "image/preprocess.h"
#include "image/sha256_for_test.h"

namespace siglip {
namespace {

using testing::HasSubstr;

nlohmann::json Golden() {
  return nlohmann::json::parse(std::ifstream("tests/golden/naflex/golden.json"));
}

// The same pixels in tools/make_naflex_goldens.py.
std::vector<std::uint8_t> Picture(int width, int height) {
  std::vector<std::uint8_t> rgb;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < 3; ++c) {
        rgb.push_back(
            static_cast<std::uint8_t>((x * 7 + y * 13 + c * 31 + x * y * (c + 1) / 3) % 251));
      }
    }
  }
  return rgb;
}

Preprocessor OfPatches(int patch, int most) {
  PreprocessOptions options;
  options.patches = {.patch_size = patch, .max_patches = most};
  options.resample = Resample::kBilinear;
  return Preprocessor(options);
}

TEST(NaflexSizeTest, EqualsTheProcessorsForEverySize) {
  const nlohmann::json sizes = Golden()["sizes"];
  ASSERT_GT(sizes.size(), 400u);
  for (const auto& row : sizes) {
    const auto size = NaflexSize(row[0].get<std::int64_t>(), row[1].get<std::int64_t>(),
                                 {row[2].get<int>(), row[3].get<int>()});
    ASSERT_TRUE(size.has_value()) << row;
    EXPECT_EQ(size->width, row[4].get<int>()) << row;
    EXPECT_EQ(size->height, row[5].get<int>()) << row;
  }
}

TEST(NaflexSizeTest, WhatTheSmallestScaleDoesNotShrinkEnoughIsRefused) {
  // 178.956970 pixels are 12 patches of 16.
  EXPECT_TRUE(NaflexSize(kPillowMaxPixels, 1, {16, 12}).has_value());
  EXPECT_FALSE(NaflexSize(kPillowMaxPixels, 1, {16, 11}).has_value());
  const std::vector<std::uint8_t> line(3 * 12'000'000);
  std::vector<float> pixels(4 * 3);
  const auto size = OfPatches(1, 4).PreprocessRgb(line.data(), 12'000'000, 1, pixels.data());
  EXPECT_THAT(std::string(size.status().message()),
              HasSubstr("12000000x1 pixels cannot be shown in 4 patches of 1"));
  EXPECT_EQ(size.status().GetPayload("siglip.image_refused"), absl::Cord("too_large"));
}

TEST(NaflexPixelsTest, EqualTheProcessorsBitForBit) {
  const nlohmann::json pictures = Golden()["pixels"];
  ASSERT_GE(pictures.size(), 10u);
  for (const auto& row : pictures) {
    const int width = row[0], height = row[1], patch = row[2], most = row[3];
    const Preprocessor preprocessor = OfPatches(patch, most);
    std::vector<float> pixels(preprocessor.pixel_values(), -9.0f);
    ASSERT_EQ(pixels.size(), static_cast<std::size_t>(most * patch * patch * 3));
    const auto size =
        preprocessor.PreprocessRgb(Picture(width, height).data(), width, height, pixels.data());
    ASSERT_TRUE(size.ok()) << size.status();
    EXPECT_EQ(size->height, row[4].get<int>() * patch) << row;
    EXPECT_EQ(size->width, row[5].get<int>() * patch) << row;
    EXPECT_EQ(Sha256Hex(pixels.data(), pixels.size() * sizeof(float)), row[6].get<std::string>())
        << row;
  }
}

}  // namespace
}  // namespace siglip
