#include "kernels/dot.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/kernel_test_util.h"
#include "kernels/reference.h"

namespace siglip {
namespace {

// Multiples of 2^-7 below 8 are exact in binary16: sign, exponent of 15 more, ten bits.
std::vector<float> HalfNumbers(std::int64_t count, std::uint32_t seed) {
  std::vector<float> values = RandomFloats(count, seed);
  for (float& value : values) value = std::round(std::fmin(std::fabs(value), 3.9f) * 128) / 128;
  for (std::size_t i = 0; i < values.size(); i += 3) values[i] = -values[i];
  return values;
}

std::vector<std::uint16_t> BitsOf(const std::vector<float>& values) {
  std::vector<std::uint16_t> bits;
  for (const float value : values) {
    int exponent;
    const float mantissa = std::frexp(std::fabs(value), &exponent);  // in [0.5, 1)
    std::uint16_t half = value < 0 ? 0x8000 : 0;
    if (mantissa != 0) {
      half |= static_cast<std::uint16_t>((exponent + 14) << 10 |
                                         (static_cast<int>(mantissa * 2048) & 0x3ff));
    }
    bits.push_back(half);
  }
  return bits;
}

// gamma_n of the header, n = width / 4 + 6.
double Bound(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::fabs(static_cast<double>(a[i]) * b[i]);
  const double roundings = static_cast<double>(a.size() / 4 + 6) * 0x1p-24;
  return sum * roundings / (1 - roundings);
}

TEST(DotTest, EqualsFloat64AtOddSizesInEveryStorage) {
  for (const std::int64_t width : {1, 2, 7, 8, 15, 33, 63, 64, 65, 127, 768, 1152, 1155}) {
    const std::vector<float> a = HalfNumbers(width, 1), b = HalfNumbers(width, 2);
    const auto a_bits = BitsOf(a), b_bits = BitsOf(b);
    const double want = reference::Dot(ToDouble(a), ToDouble(b));
    EXPECT_NEAR(Dot(a.data(), b.data(), width), want, Bound(a, b)) << width;
    EXPECT_NEAR(Dot(a.data(), b_bits.data(), width), want, Bound(a, b)) << width;
    EXPECT_NEAR(Dot(a_bits.data(), b_bits.data(), width), want, Bound(a, b)) << width;
  }
}

TEST(DotTest, HalvesThatAreNotFiniteShow) {
  for (const std::uint16_t odd : std::vector<std::uint16_t>{0x7c00, 0xfc00, 0x7e00, 0x7c01}) {
    for (const std::size_t place : {0u, 40u, 66u}) {
      std::vector<std::uint16_t> bits(67, 0x3c00);
      const std::vector<float> ones(67, 1.0f);
      EXPECT_EQ(DotWithSquare(bits.data(), ones.data(), 67).square, 67);
      bits[place] = odd;
      EXPECT_FALSE(std::isfinite(DotWithSquare(bits.data(), ones.data(), 67).square)) << odd;
      EXPECT_FALSE(std::isfinite(Dot(ones.data(), bits.data(), 67))) << odd;
    }
  }
}

TEST(DotTest, OfFloatsRoundsAsLittleAsItSays) {
  const std::vector<float> a = RandomFloats(1152, 3), b = RandomFloats(1152, 4);
  EXPECT_NEAR(Dot(a.data(), b.data(), 1152), reference::Dot(ToDouble(a), ToDouble(b)), Bound(a, b));
}

TEST(DotTest, WithTheSquareInOnePassAreTheSameBits) {
  for (const std::int64_t width : {1, 7, 8, 31, 33, 64, 100, 768, 1155}) {
    const std::vector<float> row = RandomFloats(width, 5), query = RandomFloats(width, 6);
    const DotAndSquare got = DotWithSquare(row.data(), query.data(), width);
    EXPECT_EQ(got.dot, Dot(row.data(), query.data(), width)) << width;
    EXPECT_EQ(got.square, Dot(row.data(), row.data(), width)) << width;
    const auto bits = BitsOf(HalfNumbers(width, 5));
    const DotAndSquare of_half = DotWithSquare(bits.data(), query.data(), width);
    EXPECT_EQ(of_half.dot, Dot(query.data(), bits.data(), width)) << width;
    EXPECT_EQ(of_half.square, Dot(bits.data(), bits.data(), width)) << width;
  }
}

}  // namespace
}  // namespace siglip
