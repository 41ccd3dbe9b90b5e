#include "base/normalize_row.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace siglip {
namespace {

TEST(NormalizeRow, NormalizedRowsHaveLengthOneAndZeroStaysZero) {
  std::vector<float> row = {3, 0, 4};
  NormalizeRow(row);
  EXPECT_EQ(row, (std::vector<float>{0.6f, 0, 0.8f}));
  std::vector<float> zero = {0, 0};
  NormalizeRow(zero);
  EXPECT_EQ(zero, (std::vector<float>{0, 0}));
  std::vector<float> large = {3e38f, 3e38f};
  NormalizeRow(large);
  EXPECT_FLOAT_EQ(large[0], std::sqrt(0.5f));
}

}  // namespace
}  // namespace siglip
