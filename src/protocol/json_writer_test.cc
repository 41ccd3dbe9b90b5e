#include "protocol/json_writer.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include <gtest/gtest.h>

namespace siglip {
namespace {

std::string Float(float value) {
  std::string out;
  AppendJsonFloat(value, out);
  return out;
}

TEST(JsonWriter, FloatsReadBackToTheSameBits) {
  std::mt19937 random(7);
  for (int i = 0; i < 20000; ++i) {
    const auto bits = static_cast<std::uint32_t>(random());
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    if (!std::isfinite(value)) continue;
    EXPECT_EQ(static_cast<float>(std::strtod(Float(value).c_str(), nullptr)), value)
        << Float(value);
  }
}

TEST(JsonWriter, IntegralFloatsStayFloats) {
  EXPECT_EQ(Float(5), "5.0");
  EXPECT_EQ(Float(std::numeric_limits<float>::quiet_NaN()), "NaN");
  EXPECT_EQ(Float(-std::numeric_limits<float>::infinity()), "-Infinity");
}

TEST(JsonWriter, ErrorBodyHasTritonsKey) { EXPECT_EQ(ErrorBody("x\"y"), R"({"error":"x\"y"})"); }

}  // namespace
}  // namespace siglip
