#include "bulk/row_format.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

namespace siglip::bulk {
namespace {

TEST(RowFormatTest, NpyHeaderHasOneLengthAndNamesTheType) {
  const std::string header = NpyHeader(DType::kFloat32, 2, 3);
  EXPECT_EQ(header.size(), kNpyHeaderBytes);
  EXPECT_EQ(NpyHeader(DType::kFloat16, ~std::uint64_t{0}, ~std::uint64_t{0}).size(),
            kNpyHeaderBytes);
  EXPECT_NE(header.find("'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"),
            std::string::npos);
  EXPECT_NE(NpyHeader(DType::kFloat16, 2, 3).find("'<f2'"), std::string::npos);
}

TEST(RowFormatTest, NumbersAreLittleEndian) {
  const std::vector<float> row = {1.5f, -2};
  std::string bytes;
  AppendNpyRow(DType::kFloat32, row, bytes);
  EXPECT_EQ(bytes, std::string("\0\0\xc0\x3f\0\0\0\xc0", 8));
  bytes.clear();
  AppendNpyRow(DType::kFloat16, row, bytes);
  EXPECT_EQ(bytes, std::string("\0\x3e\0\xc0", 4));
}

TEST(RowFormatTest, JsonRowsSayWhatTheyAre) {
  const std::vector<float> row = {0.1f, 1};
  std::string out;
  AppendJsonRow(DType::kFloat32, Item::Kind::kImage, "a.jpg", row, out);
  AppendJsonRow(DType::kFloat16, Item::Kind::kText, "\"q\"", row, out);
  EXPECT_EQ(out,
            "{\"image\":\"a.jpg\",\"embedding\":[0.1,1]}\n"
            "{\"text\":\"\\\"q\\\"\",\"embedding\":[0.099975586,1]}\n");
}

TEST(RowFormatTest, FloatsReadBackExactlyAndNonFiniteIsNull) {
  std::string out;
  AppendJsonFloat(1.0f / 3, out);
  EXPECT_EQ(std::stof(out), 1.0f / 3);
  out.clear();
  AppendJsonFloat(std::numeric_limits<float>::quiet_NaN(), out);
  EXPECT_EQ(out, "null");
}

TEST(RowFormatTest, BrokenUtf8InANameStaysValidJson) {
  EXPECT_EQ(JsonString("a\xff"), "\"a\xEF\xBF\xBD\"");
}

}  // namespace
}  // namespace siglip::bulk
