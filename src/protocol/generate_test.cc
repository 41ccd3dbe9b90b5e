#include "protocol/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siglip {
namespace {

ModelConfig Config() {
  ModelConfig config;
  config.name = "embed_text";
  config.max_batch_size = 60;
  config.inputs = {{.name = "INPUT_TEXT", .datatype = DataType::kBytes, .dims = {1}}};
  return config;
}

TEST(Generate, KeysAreInputsOrParameters) {
  const auto one =
      GenerateToInfer(R"({"INPUT_TEXT":"seven","embed_model":"x","id":"7"})", Config());
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->infer, R"({"inputs":[{"name":"INPUT_TEXT","datatype":"BYTES","shape":[1,1],)"
                        R"("data":["seven"]}],"id":"7"})");
  EXPECT_EQ(one->parameters, (Parameters{{"embed_model", std::string("x")}}));
  const auto two = GenerateToInfer(R"({"parameters":{"a":1},"INPUT_TEXT":["a","b"]})", Config());
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_EQ(two->infer, R"({"inputs":[{"name":"INPUT_TEXT","datatype":"BYTES","shape":[2,1],)"
                        R"("data":["a","b"]}]})");
  EXPECT_EQ(two->parameters, (Parameters{{"a", std::int64_t{1}}}));
}

TEST(Generate, ParametersAreAnObjectThatMayHoldInputs) {
  const auto inside =
      GenerateToInfer(R"({"parameters":{"INPUT_TEXT":["a","b"],"id":"x"},"id":"7"})", Config());
  ASSERT_TRUE(inside.ok()) << inside.status();
  EXPECT_EQ(inside->infer, R"({"inputs":[{"name":"INPUT_TEXT","datatype":"BYTES","shape":[2,1],)"
                           R"("data":["a","b"]}],"id":"7"})");
  EXPECT_EQ(inside->parameters, (Parameters{{"id", std::string("x")}}));
  for (const char* value : {"5", "\"x\"", "null", "[]", "true", "1.5"}) {
    const std::string body = std::string(R"({"INPUT_TEXT":"a","parameters":)") + value + "}";
    EXPECT_EQ(GenerateToInfer(body, Config()).status().message(), "parameters: expected an object");
  }
}

TEST(Generate, ListsAreAsManyRowsAsTheyFill) {
  ModelConfig config = Config();
  const auto shape = [&config](const std::string& list) {
    const std::string infer =
        GenerateToInfer(R"({"INPUT_IDS":)" + list + "}", config).value_or(GenerateBody()).infer;
    const std::size_t begin = infer.find("\"shape\":") + 8;
    return infer.substr(begin, infer.find(']', begin) + 1 - begin);
  };
  config.inputs[0] = {.name = "INPUT_IDS", .datatype = DataType::kInt64, .dims = {3}};
  EXPECT_EQ(shape("[1,2,3]"), "[1,3]");
  EXPECT_EQ(shape("[1,2,3,4,5,6]"), "[2,3]");
  EXPECT_EQ(shape("[1,2,3,4]"), "[1,4]") << "refused by the model, which tells what it expects";
  config.inputs[0].dims = {3, 1, 2};
  EXPECT_EQ(shape("[1,2,3,4,5,6]"), "[1,3,1,2]");
  config.inputs[0].dims = {-1};
  EXPECT_EQ(shape("[1,2,3,4]"), "[1,4]");
  config.max_batch_size = 0;
  EXPECT_EQ(shape("[1,2,3,4]"), "[4]");
}

// As in Triton: what is an option of an inference request is a parameter like others here.
TEST(Generate, NoParameterIsAnOptionOfTheRequest) {
  const auto parsed = GenerateToInfer(
      R"({"INPUT_TEXT":"a","timeout":"soon","priority":-1,"sequence_id":1.5,"triton_x":true,)"
      R"("big":18446744073709551615})",
      Config());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->parameters, (Parameters{{"timeout", std::string("soon")},
                                            {"priority", std::int64_t{-1}},
                                            {"sequence_id", 1.5},
                                            {"triton_x", true},
                                            {"big", 18446744073709551615.0}}));
  for (const char* value : {"null", "[1]", "{\"b\":1}"}) {
    const std::string body = std::string("{\"INPUT_TEXT\":\"a\",\"k\":") + value + "}";
    EXPECT_EQ(GenerateToInfer(body, Config()).status().message(),
              "parameter 'k': expected a string, bool, integer or double");
  }
  std::string many = "{\"k\":0";
  for (int i = 0; i < 256; ++i) many += ",\"k" + std::to_string(i) + "\":0";
  EXPECT_EQ(GenerateToInfer(many + "}", Config()).status().message(),
            "parameters: more than 256 entries");
}

TEST(Generate, BrokenBodiesAreRefused) {
  for (const std::string& body :
       {std::string(), std::string("["), std::string("[]"), std::string("{\"a\":\"\xff\"}"),
        std::string(100000, '['), std::string("{\"a\":[[[1]]]}")}) {
    EXPECT_EQ(GenerateToInfer(body, Config()).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

// Which of the two counts would depend on who reads it.
TEST(Generate, WhatIsGivenTwiceIsRefused) {
  for (const char* body :
       {R"({"INPUT_TEXT":"a","INPUT_TEXT":"b"})", R"({"INPUT_TEXT":"a","id":"1","id":"2"})",
        R"({"INPUT_TEXT":"a","parameters":{"x":1,"x":2}})",
        R"({"INPUT_TEXT":"a","x":1,"parameters":{"x":2}})",
        R"({"INPUT_TEXT":"a","\u0078":1,"x":2})"}) {
    const absl::Status status = GenerateToInfer(body, Config()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << body;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("is given twice")) << body;
  }
  EXPECT_TRUE(GenerateToInfer(R"({"INPUT_TEXT":"a","parameters":{"INPUT_TEXT":1}})", Config()).ok())
      << "keys of two objects";
}

TEST(Generate, ManyKeysAndValuesAreRefused) {
  std::string keys = "{\"a\":0";
  for (int i = 0; i < 300'000; ++i) keys += ",\"k" + std::to_string(i) + "\":0";
  std::string values = "{\"INPUT_TEXT\":[0";
  for (int i = 0; i < 300'000; ++i) values += ",0";
  for (const std::string& body : {keys + "}", "{\"parameters\":" + keys + "}}", values + "]}"}) {
    const absl::Status status = GenerateToInfer(body, Config()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("20000 keys and values"));
  }
}

TEST(Generate, OneElementIsAScalar) {
  const float values[] = {1.5F, 2};
  InferResponse response;
  response.model_name = "m";
  response.model_version = "1";
  response.outputs.push_back({.name = "Y", .shape = {1, 2}});
  response.outputs[0].data = std::as_bytes(std::span(values));
  EXPECT_EQ(*RenderGenerate(response), R"({"model_name":"m","model_version":"1","Y":[1.5,2.0]})");
  response.id = "i";
  response.outputs[0].shape = {1};
  response.outputs[0].data = std::as_bytes(std::span(values, 1));
  EXPECT_EQ(*RenderGenerate(response),
            R"({"id":"i","model_name":"m","model_version":"1","Y":1.5})");
}

}  // namespace
}  // namespace siglip
