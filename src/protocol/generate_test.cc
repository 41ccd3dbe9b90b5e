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
  EXPECT_EQ(*GenerateToInfer(R"({"INPUT_TEXT":"seven","embed_model":"x","id":"7"})", Config()),
            R"({"inputs":[{"name":"INPUT_TEXT","datatype":"BYTES","shape":[1,1],)"
            R"("data":["seven"]}],"id":"7","parameters":{"embed_model":"x"}})");
  EXPECT_EQ(*GenerateToInfer(R"({"parameters":{"a":1},"INPUT_TEXT":["a","b"]})", Config()),
            R"({"inputs":[{"name":"INPUT_TEXT","datatype":"BYTES","shape":[2,1],)"
            R"("data":["a","b"]}],"parameters":{"a":1}})");
  ModelConfig numbers = Config();
  numbers.inputs[0] = {.name = "INPUT_IDS", .datatype = DataType::kInt64, .dims = {3}};
  EXPECT_EQ(*GenerateToInfer(R"({"INPUT_IDS":[1,2,3]})", numbers),
            R"({"inputs":[{"name":"INPUT_IDS","datatype":"INT64","shape":[1,3],"data":[1,2,3]}]})");
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
