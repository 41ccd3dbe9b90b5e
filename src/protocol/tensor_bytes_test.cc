#include "protocol/tensor_bytes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siglip {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Prefixed(std::initializer_list<std::string_view> elements) {
  std::string out;
  for (const std::string_view element : elements) {
    const auto n = static_cast<std::uint32_t>(element.size());
    for (int i = 0; i < 4; ++i) out += static_cast<char>(n >> (8 * i) & 0xFF);
    out += element;
  }
  return out;
}

TEST(SplitByteElements, YieldsViewsInOrder) {
  const std::string bytes = Prefixed({"ab", "", "cde"});
  std::vector<std::string_view> elements;
  ASSERT_TRUE(SplitByteElements(bytes, 3, elements).ok());
  EXPECT_THAT(elements, ElementsAre("ab", "", "cde"));
  EXPECT_EQ(elements[0].data(), bytes.data() + 4);
}

TEST(SplitByteElements, EveryTruncationIsRefused) {
  const std::string bytes = Prefixed({"ab", "cde"});
  std::vector<std::string_view> elements;
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_FALSE(SplitByteElements(std::string_view(bytes).substr(0, n), 2, elements).ok()) << n;
  }
}

TEST(SplitByteElements, LengthBeyondTheEndIsRefused) {
  std::vector<std::string_view> elements;
  const std::string huge("\xFF\xFF\xFF\xFFx", 5);
  EXPECT_THAT(SplitByteElements(huge, 1, elements).message(), HasSubstr("only 1 bytes are left"));
}

TEST(SplitByteElements, MoreElementsThanTheShapeIsRefused) {
  std::vector<std::string_view> elements;
  EXPECT_FALSE(SplitByteElements(Prefixed({"a", "b"}), 1, elements).ok());
  EXPECT_FALSE(SplitByteElements(Prefixed({"a"}), 0, elements).ok());
}

TEST(SplitByteElements, HugeExpectedCountAllocatesNothing) {
  std::vector<std::string_view> elements;
  EXPECT_FALSE(SplitByteElements("", std::numeric_limits<std::int64_t>::max(), elements).ok());
  EXPECT_EQ(elements.capacity(), 0U);
}

InputTensor Fp32(std::vector<std::int64_t> shape) {
  InputTensor tensor;
  tensor.name = "X";
  tensor.datatype = DataType::kFp32;
  tensor.shape = std::move(shape);
  return tensor;
}

TEST(SetInputBytes, SizeMustEqualShapeTimesElement) {
  const std::string bytes(24, '\0');
  InputTensor tensor = Fp32({2, 3});
  ASSERT_TRUE(SetInputBytes(bytes, tensor).ok());
  EXPECT_EQ(static_cast<const void*>(tensor.data.data()), bytes.data());
  tensor = Fp32({2, 2});
  EXPECT_THAT(SetInputBytes(bytes, tensor).message(),
              HasSubstr("expected 16 bytes for FP32 [2,2], got 24"));
}

TEST(SetInputBytes, OverflowAndNegativeDimensionsAreRefused) {
  for (const std::vector<std::int64_t>& shape : std::vector<std::vector<std::int64_t>>{
           {-1}, {2, -3}, {4194305, 4194305, 211106198978564}, {std::int64_t{1} << 62}}) {
    InputTensor tensor = Fp32(shape);
    EXPECT_EQ(SetInputBytes("0123", tensor).code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace siglip
