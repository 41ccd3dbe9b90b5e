#include "serving/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serving/fakes_for_test.h"

namespace siglip {
namespace {

using testing::FloatConfig;
using testing::FloatRequest;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Text(const absl::Status& status) { return std::string(status.message()); }

ModelConfig BytesConfig() {
  ModelConfig config = FloatConfig("img");
  config.inputs = {{.name = "INPUT_IMAGE", .datatype = DataType::kBytes, .dims = {1}}};
  return config;
}

std::unique_ptr<InferRequest> Raw(std::string_view body) {
  auto request = std::make_unique<InferRequest>();
  request->deduce_input = true;
  InputTensor input;
  input.data = std::as_bytes(std::span(body.data(), body.size()));
  request->inputs.push_back(input);
  return request;
}

TEST(Validate, AcceptsWhatFitsAndTellsItsBatchSize) {
  auto request = FloatRequest({1, 2, 3, 4, 5, 6});
  ASSERT_TRUE(ValidateRequest(FloatConfig(), *request).ok());
  EXPECT_EQ(BatchSize(FloatConfig(), *request), 3);
}

TEST(Validate, BatchOverTheLimitIsTritonsText) {
  auto request = FloatRequest(std::vector<float>(18));
  request->id = "7";
  const absl::Status status = ValidateRequest(FloatConfig(), *request);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Text(status), "[request id: 7] inference request batch-size must be <= 8 for 'm'");
}

TEST(Validate, WrongShapeNamesBoth) {
  auto request = FloatRequest({1, 2, 3}, nullptr, "m", 3);
  EXPECT_THAT(
      Text(ValidateRequest(FloatConfig(), *request)),
      StartsWith("unexpected shape for input 'X' for model 'm'. Expected [-1,2], got [1,3]"));
  request = FloatRequest({1, 2});
  request->inputs[0].shape = {2};
  EXPECT_THAT(Text(ValidateRequest(FloatConfig(), *request)),
              HasSubstr("Expected [-1,2], got [2]"));
}

TEST(Validate, NegativeAndEmptyDimensionsAreRefused) {
  auto request = FloatRequest({1, 2});
  request->inputs[0].shape = {-1, 2};
  EXPECT_THAT(Text(ValidateRequest(FloatConfig(), *request)), HasSubstr("negative dimension"));
  request = FloatRequest({});
  request->inputs[0].shape = {0, 2};
  EXPECT_THAT(Text(ValidateRequest(FloatConfig(), *request)), HasSubstr("batch-size must be >= 1"));
}

TEST(Validate, HugeShapesDoNotOverflow) {
  ModelConfig config = FloatConfig();
  config.inputs[0].dims = {-1, -1};
  auto request = FloatRequest({1, 2});
  request->inputs[0].shape = {1, INT64_MAX, 4};
  EXPECT_THAT(Text(ValidateRequest(config, *request)), HasSubstr("too large a shape"));
  request->inputs[0].shape = {1, INT64_MAX, 1};
  EXPECT_THAT(Text(ValidateRequest(config, *request)), HasSubstr("input byte size mismatch"));
}

TEST(Validate, WrongTypeNamesBoth) {
  auto request = FloatRequest({1, 2});
  request->inputs[0].datatype = DataType::kInt64;
  EXPECT_EQ(Text(ValidateRequest(FloatConfig(), *request)),
            "inference input 'X' data-type is 'INT64', but model 'm' expects 'FP32'");
}

TEST(Validate, InputsAreNamedOnceAndAllThere) {
  auto request = FloatRequest({1, 2});
  request->inputs[0].name = "Q";
  EXPECT_EQ(Text(ValidateRequest(FloatConfig(), *request)),
            "unexpected inference input 'Q' for model 'm'");
  request = FloatRequest({1, 2});
  request->inputs.push_back(request->inputs[0]);
  EXPECT_THAT(Text(ValidateRequest(FloatConfig(), *request)), HasSubstr("already exists"));
  request->inputs.clear();
  EXPECT_EQ(Text(ValidateRequest(FloatConfig(), *request)),
            "expected 1 inputs but got 0 inputs for model 'm'. Got input(s) [], but missing "
            "required input(s) ['X']. Please provide all required input(s).");
}

TEST(Validate, InputsComeOutInTheConfigsOrder) {
  ModelConfig config = FloatConfig();
  config.inputs.push_back({.name = "A", .datatype = DataType::kFp32, .dims = {2}});
  auto request = FloatRequest({1, 2});
  request->inputs.insert(request->inputs.begin(), request->inputs[0]);
  request->inputs[0].name = "A";
  ASSERT_TRUE(ValidateRequest(config, *request).ok());
  EXPECT_EQ(request->inputs[0].name, "X");
  EXPECT_EQ(request->inputs[1].name, "A");
}

TEST(Validate, OutputsMustExistAndBeAskedOnce) {
  auto request = FloatRequest({1, 2});
  request->outputs = {{.name = "Z"}};
  EXPECT_EQ(Text(ValidateRequest(FloatConfig(), *request)),
            "unexpected inference output 'Z' for model 'm'");
  request->outputs = {{.name = "Y"}, {.name = "Y"}};
  EXPECT_THAT(Text(ValidateRequest(FloatConfig(), *request)), HasSubstr("already requested"));
}

TEST(Validate, ByteSizeAndElementCountMustFit) {
  auto request = FloatRequest({1, 2});
  request->inputs[0].data = request->inputs[0].data.first(7);
  EXPECT_THAT(Text(ValidateRequest(FloatConfig(), *request)), HasSubstr("Expected 8, got 7"));
  auto bytes = Raw("abc");
  ASSERT_TRUE(DeduceInput(BytesConfig(), *bytes).ok());
  bytes->inputs[0].elements.push_back("x");
  EXPECT_EQ(Text(ValidateRequest(BytesConfig(), *bytes)),
            "expected 1 string elements for inference input 'INPUT_IMAGE' for model 'img', got 2");
}

TEST(Deduce, BytesBodyIsOneElement) {
  auto request = Raw("image");
  ASSERT_TRUE(DeduceInput(BytesConfig(), *request).ok());
  ASSERT_TRUE(ValidateRequest(BytesConfig(), *request).ok());
  EXPECT_EQ(request->inputs[0].elements, std::vector<std::string_view>{"image"});
  EXPECT_EQ(request->inputs[0].shape, (std::vector<std::int64_t>{1, 1}));
}

TEST(Deduce, OneOpenDimensionIsFoundFromTheSize) {
  ModelConfig config = FloatConfig();
  config.inputs[0].dims = {-1, 2};
  auto request = Raw("0123456789abcdef");
  ASSERT_TRUE(DeduceInput(config, *request).ok());
  EXPECT_EQ(request->inputs[0].shape, (std::vector<std::int64_t>{1, 2, 2}));
  request = Raw("0123456789");
  EXPECT_FALSE(DeduceInput(config, *request).ok());
  config.inputs[0].dims = {-1, -1};
  request = Raw("0123456789abcdef");
  EXPECT_THAT(Text(DeduceInput(config, *request)), HasSubstr("can not be deduced"));
}

TEST(Deduce, OnlyModelsOfOneInput) {
  ModelConfig config = BytesConfig();
  config.inputs.push_back(config.inputs[0]);
  auto request = Raw("x");
  EXPECT_THAT(Text(DeduceInput(config, *request)),
              StartsWith("Raw request must only have 1 input"));
  config.inputs.resize(1);
  config.inputs[0].dims = {2};
  request = Raw("x");
  EXPECT_THAT(Text(DeduceInput(config, *request)), HasSubstr("must have input shape [1]"));
}

TEST(DataTypes, NamesAndSizesAgree) {
  for (int i = 0; i <= static_cast<int>(DataType::kBf16); ++i) {
    const auto type = static_cast<DataType>(i);
    EXPECT_EQ(ParseDataType(DataTypeName(type)), type);
  }
  EXPECT_EQ(ParseDataType("FP31"), std::nullopt);
  EXPECT_EQ(DataTypeSizeBytes(DataType::kInt64), 8u);
  EXPECT_EQ(DataTypeSizeBytes(DataType::kBytes), 0u);
}

}  // namespace
}  // namespace siglip
