#include "bulk/half.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace siglip::bulk {
namespace {

TEST(HalfTest, EveryHalfSurvivesTheRoundTrip) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    ASSERT_EQ(HalfBits(FloatOfHalf(half)), half) << bits;
  }
}

TEST(HalfTest, BetweenTwoHalvesTheNearestIsTakenAndTiesGoToEven) {
  for (std::uint32_t bits = 0; bits + 1 < 0x7c00; ++bits) {
    const auto low = static_cast<std::uint16_t>(bits), high = static_cast<std::uint16_t>(bits + 1);
    const float middle = (FloatOfHalf(low) + FloatOfHalf(high)) / 2;  // exact
    ASSERT_EQ(HalfBits(middle), bits % 2 == 0 ? low : high) << bits;
    ASSERT_EQ(HalfBits(std::nextafter(middle, 0.0f)), low) << bits;
    ASSERT_EQ(HalfBits(std::nextafter(middle, 1e9f)), high) << bits;
    ASSERT_EQ(HalfBits(-middle), HalfBits(middle) | 0x8000) << bits;
  }
}

TEST(HalfTest, TooLargeIsInfinityAndTooSmallIsZero) {
  EXPECT_EQ(HalfBits(65519.99f), 0x7bff);
  EXPECT_EQ(HalfBits(65520.0f), 0x7c00);
  EXPECT_EQ(HalfBits(-std::numeric_limits<float>::infinity()), 0xfc00);
  EXPECT_EQ(HalfBits(0x1p-25f), 0);
  EXPECT_EQ(HalfBits(std::nextafter(0x1p-25f, 1.0f)), 1);
  EXPECT_EQ(HalfBits(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(HalfBits(std::numeric_limits<float>::quiet_NaN()) & 0x7c00, 0x7c00);
  EXPECT_NE(HalfBits(std::numeric_limits<float>::quiet_NaN()) & 0x3ff, 0);
}

}  // namespace
}  // namespace siglip::bulk
