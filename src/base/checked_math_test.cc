#include "base/checked_math.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace siglip {
namespace {

TEST(CheckedMath, OverflowIsNothing) {
  EXPECT_EQ(CheckedMul<std::uint64_t>(1ull << 32, 1ull << 32), std::nullopt);
  EXPECT_EQ(CheckedMul<std::uint64_t>(3, 5), 15u);
  EXPECT_EQ(CheckedAdd<std::uint64_t>(~0ull, 1), std::nullopt);
}

TEST(CheckedMath, ElementCountRefusesNegativeAndWrappingShapes) {
  EXPECT_EQ(ElementCount(std::vector<std::int64_t>{2, 3, 4}), 24);
  EXPECT_EQ(ElementCount(std::vector<std::int64_t>{}), 1);
  EXPECT_EQ(ElementCount(std::vector<std::int64_t>{2, -1}), std::nullopt);
  // This product wraps to 4 in 64 bits.
  EXPECT_EQ(ElementCount(std::vector<std::int64_t>{4194305, 4194305, 211106198978564}), std::nullopt);
}

TEST(CheckedMath, ParseIntTakesWholePlainNumbersOnly) {
  EXPECT_EQ(ParseInt<int>("17"), 17);
  EXPECT_EQ(ParseInt<int>("-17"), -17);
  EXPECT_EQ(ParseInt<std::uint32_t>("-1"), std::nullopt);
  for (const char* bad : {"", " 1", "1 ", "+1", "0x5", "1e3", "99999999999", "1a"}) {
    EXPECT_EQ(ParseInt<int>(bad), std::nullopt) << bad;
  }
}

}  // namespace
}  // namespace siglip
