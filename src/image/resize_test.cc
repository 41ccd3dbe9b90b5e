#include "image/resize.h"

#include "image/noise_for_test.h"
#include "image/resize_kernels.h"

#include <cstdint>
#include <cstring>
#include <random>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"

namespace siglip {
namespace {

bool SamePixels(const RgbImage& a, const RgbImage& b) {
  return a.width == b.width && a.height == b.height &&
         std::memcmp(a.pixels.data(), b.pixels.data(), a.pixels.size()) == 0;
}

TEST(Resize, EqualsTheReferenceForEveryGeometry) {
  const std::vector<std::tuple<int, int, int, int>> geometries = {
      {1, 1, 7, 7},      {1, 50, 9, 9},     {50, 1, 9, 9},      {1, 300, 16, 16},
      {300, 1, 16, 16},  {2, 2, 3, 3},      {17, 13, 17, 13},   {17, 13, 17, 31},
      {17, 13, 31, 13},  {17, 40, 17, 8},   {40, 17, 8, 17},    {100, 75, 32, 32},
      {30, 200, 32, 32}, {200, 30, 32, 32}, {61, 59, 64, 64},   {64, 64, 1, 1},
      {5, 5, 100, 3},    {3, 100, 5, 5},    {129, 127, 33, 35}, {386, 395, 384, 384}};
  for (const auto& [w, h, ow, oh] : geometries) {
    const RgbImage image = Noise(w, h, static_cast<std::uint32_t>(w * 1000 + h));
    for (const Resample filter : {Resample::kBilinear, Resample::kBicubic}) {
      for (const PillowVersion pillow : {PillowVersion::k12, PillowVersion::k13}) {
        const auto fast = ResizeRgb(image, ow, oh, filter, pillow);
        const auto plain = ResizeRgbReference(image, ow, oh, filter, pillow);
        ASSERT_TRUE(fast.ok() && plain.ok());
        EXPECT_TRUE(SamePixels(*fast, *plain)) << w << "x" << h << " -> " << ow << "x" << oh;
      }
    }
  }
}

TEST(Resize, EqualsTheReferenceForRandomGeometries) {
  std::minstd_rand random(20240607);
  for (int i = 0; i < 150; ++i) {
    const int w = 1 + static_cast<int>(random() % 90), h = 1 + static_cast<int>(random() % 160);
    const int ow = 1 + static_cast<int>(random() % 60), oh = 1 + static_cast<int>(random() % 60);
    const RgbImage image = Noise(w, h, static_cast<std::uint32_t>(random()));
    const Resample filter = random() % 2 == 0 ? Resample::kBilinear : Resample::kBicubic;
    const auto fast = ResizeRgb(image, ow, oh, filter, PillowVersion::k13);
    const auto plain = ResizeRgbReference(image, ow, oh, filter, PillowVersion::k13);
    ASSERT_TRUE(fast.ok() && plain.ok());
    EXPECT_TRUE(SamePixels(*fast, *plain)) << w << "x" << h << " -> " << ow << "x" << oh;
  }
}

TEST(Resize, PassOrderFollowsPillow13OnlyWhenHeightShrinksMoreThanTwiceTheWidth) {
  EXPECT_TRUE(VerticalPassFirst(386, 395, 384, 384, PillowVersion::k13));
  EXPECT_FALSE(VerticalPassFirst(386, 395, 384, 384, PillowVersion::k12));
  EXPECT_FALSE(VerticalPassFirst(500, 616, 384, 384, PillowVersion::k13));  // exactly twice
  EXPECT_TRUE(VerticalPassFirst(500, 617, 384, 384, PillowVersion::k13));
  EXPECT_TRUE(VerticalPassFirst(10, 385, 384, 384, PillowVersion::k13));
  EXPECT_FALSE(VerticalPassFirst(10, 384, 384, 384, PillowVersion::k13));
}

TEST(Resize, TheTwoOrdersDifferOnTallPictures) {
  const RgbImage image = Noise(50, 200, 3);
  const auto old_order = ResizeRgb(image, 32, 32, Resample::kBicubic, PillowVersion::k12);
  const auto new_order = ResizeRgb(image, 32, 32, Resample::kBicubic, PillowVersion::k13);
  ASSERT_TRUE(old_order.ok() && new_order.ok());
  EXPECT_FALSE(SamePixels(*old_order, *new_order));
}

TEST(Resize, CoefficientsOfEveryOutputSumToOne) {
  for (const int in : {1, 2, 7, 100, 4000}) {
    const auto table = MakeResampleTable(in, 33, Resample::kBicubic);
    ASSERT_TRUE(table.ok());
    for (int o = 0; o < 33; ++o) {
      std::int64_t sum = 0;
      for (int t = 0; t < table->padded_taps; ++t) {
        const std::int16_t* group = table->TapsOf(o) + (t / 4) * 8 + t % 4;
        sum += group[0] * 2048 + group[4];
      }
      EXPECT_NEAR(static_cast<double>(sum), 1 << kCoefficientBits, table->count[o]);
    }
  }
}

TEST(Resize, ScratchBeyondTheLimitsIsResourceExhausted) {
  EXPECT_EQ(MakeResampleTable(170'000'000, 384, Resample::kBicubic).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(Resize, NamesItsInstructionSet) { EXPECT_FALSE(ResizeTargetName().empty()); }

}  // namespace
}  // namespace siglip
