#include "protocol/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siglip {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::string_view kVision = R"(
name: "siglip_vision_model"
backend: "siglip"
max_batch_size: 32
input [ { name: "PIXEL_VALUES" data_type: TYPE_FP32 dims: [ 3, 384, 384 ] label: "x" } ]
)";

constexpr std::string_view kFull = R"(
name: "m"  # a comment
backend: "siglip"
max_batch_size: 32
input [ { name: "X" data_type: TYPE_STRING dims: [ 1 ] } ]
output { name: "Y" data_type: TYPE_FP32 dims: -1 is_non_linear_format_io: true }
instance_group [ { kind: KIND_GPU count: 2 gpus: [ 0, 1 ] } ]
dynamic_batching {
  preferred_batch_size: [ 16, 8 ]
  max_queue_delay_microseconds: 100
  default_queue_policy { timeout_action: DELAY max_queue_size: 5 allow_timeout_override: true }
}
parameters { key: "checkpoint" value: { string_value: "../../models/demo" } }
model_warmup [ { name: "w" batch_size: 1 count: 3
  inputs { key: "X" value: { data_type: TYPE_STRING dims: 1 input_data_file: "a.jpg" } } } ]
optimization { cuda { graphs: true } }
)";

TEST(ModelConfig, FieldsReachTheStruct) {
  const auto config = ParseModelConfig(kFull, "repo/m/config.pbtxt");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name, "m");
  EXPECT_EQ(config->max_batch_size, 32);
  EXPECT_EQ(config->inputs[0].datatype, DataType::kBytes);
  EXPECT_THAT(config->outputs[0].dims, ElementsAre(-1));
  EXPECT_EQ(config->instance_groups[0].kind, InstanceGroup::Kind::kGpu);
  EXPECT_THAT(config->instance_groups[0].gpus, ElementsAre(0, 1));
  EXPECT_THAT(config->dynamic_batching->preferred_batch_sizes, ElementsAre(8, 16));
  EXPECT_EQ(config->dynamic_batching->max_queue_delay_us, 100U);
  EXPECT_EQ(config->dynamic_batching->default_queue_policy.timeout_action,
            QueuePolicy::TimeoutAction::kDelay);
  EXPECT_EQ(config->parameters.at("checkpoint"), "../../models/demo");
  EXPECT_EQ(config->warmups[0].inputs.at("X").file, "a.jpg");
  EXPECT_EQ(config->warmups[0].count, 3U);
  EXPECT_TRUE(config->has_optimization);
  EXPECT_EQ(config->source, "repo/m/config.pbtxt");
  EXPECT_EQ(config->directory, "repo/m");
}

TEST(ModelConfig, OnlyAStatedQueuePolicyForbidsClientsTheirTimeout) {
  const auto allows = [](const char* batching) {
    const auto config = ParseModelConfig(batching, "c");
    EXPECT_TRUE(config.ok()) << config.status();
    // What is not stated is not echoed.
    EXPECT_EQ(ModelConfigToProto(*config).dynamic_batching().has_default_queue_policy(),
              std::string_view(batching).find("policy") != std::string_view::npos);
    return config->dynamic_batching->default_queue_policy.allow_timeout_override;
  };
  EXPECT_TRUE(allows("dynamic_batching {}"));
  EXPECT_TRUE(allows("dynamic_batching { default_queue_policy { allow_timeout_override: true } }"));
  EXPECT_FALSE(allows("dynamic_batching { default_queue_policy {} }"));
  EXPECT_FALSE(allows("dynamic_batching { default_queue_policy { max_queue_size: 5 } }"));
}

TEST(ModelConfig, ErrorsNameFileLineAndColumn) {
  const auto unknown = ParseModelConfig(kVision, "repo/v/config.pbtxt");
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(unknown.status().message(), HasSubstr("repo/v/config.pbtxt:5:"));
  EXPECT_THAT(unknown.status().message(), HasSubstr("label"));
  for (const char* bad :
       {"name: 3", "name", "max_batch_size: \"x\"", "input { data_type: TYPE_FP33 }",
        "max_batch_size: 99999999999", "name: \"a\" name: \"b\"", "}", "input {"}) {
    const auto config = ParseModelConfig(bad, "c");
    EXPECT_THAT(config.status().message(), HasSubstr("c:1:")) << bad;
  }
}

TEST(ModelConfig, WhatCannotBeHonouredIsRefused) {
  EXPECT_THAT(ParseModelConfig("sequence_batching {}", "c").status().message(),
              HasSubstr("c:1: sequence_batching is not supported"));
  EXPECT_THAT(ParseModelConfig("input { name: 'X' }", "c").status().message(),
              HasSubstr("c:1: input 'X': data_type is missing"));
  EXPECT_THAT(
      ParseModelConfig("input {\n name: 'X' data_type: TYPE_FP32 }\ninput { name: 'Y' }", "c")
          .status()
          .message(),
      HasSubstr("c:3: input 'Y': data_type is missing"));
  EXPECT_THAT(ParseModelConfig("dynamic_batching {\n priority_levels: 4294967296 }", "c")
                  .status()
                  .message(),
              HasSubstr("c:2: dynamic_batching.priority_levels: expected at most"));
  const std::pair<const char*, const char*> fields[] = {
      {"batch_input { kind: BATCH_ITEM_SHAPE }", "c:1: batch_input is"},
      {"batch_output { target_name: 'X' }", "c:1: batch_output is"},
      {"instance_group {\n profile: '1' }", "c:2: instance_group.profile is"},
      {"input { name: 'X' reshape { shape: 1 } }", "c:1: input 'X': reshape is"},
      {"input { name: 'X' is_shape_tensor: true }", "c:1: input 'X': is_shape_tensor is"},
      {"output { name: 'Y' reshape { } }", "c:1: output 'Y': reshape is"},
      {"output { name: 'Y' label_filename: 'labels.txt' }", "c:1: output 'Y': label_filename is"}};
  for (const auto& [text, error] : fields) {
    EXPECT_THAT(ParseModelConfig(text, "c").status().message(),
                HasSubstr(std::string(error) + " not supported"));
  }
}

TEST(ModelConfig, WhatHasNoEffectIsNamed) {
  EXPECT_THAT(ParseModelConfig("optimization {} default_model_filename: 'x' runtime: 'y' "
                               "model_operations {} model_repository_agents {} "
                               "cc_model_filenames { key: 'a' value: 'b' }",
                               "c")
                  ->without_effect,
              ElementsAre("runtime", "default_model_filename", "cc_model_filenames",
                          "model_operations", "model_repository_agents"));
  EXPECT_TRUE(ParseModelConfig(kFull, "c")->without_effect.empty());
  const auto metrics = [](std::string_view control) {
    return ParseModelConfig("model_metrics { metric_control { " + std::string(control) + " } }",
                            "c");
  };
  EXPECT_THAT(metrics("metric_identifier { family: 'other' } histogram_options { buckets: 1 }")
                  ->without_effect,
              ElementsAre("model_metrics"));
  for (const char* control : {"", "histogram_options { buckets: 1 }",
                              "metric_identifier { family: 'other' } histogram_options { }"}) {
    EXPECT_THAT(metrics(control).status().message(),
                HasSubstr("c:1: model_metrics: expected a family and its buckets"));
  }
}

TEST(ModelConfig, TheVersionPolicyReachesTheStruct) {
  const auto of = [](const char* policy) {
    return *ParseModelConfig("version_policy { " + std::string(policy) + " }", "c");
  };
  EXPECT_EQ(of("").version_policy_latest, 1U);
  EXPECT_EQ(of("").version_policy_specific, std::nullopt);
  EXPECT_EQ(of("latest { }").version_policy_latest, 0U) << "none, as there";
  EXPECT_EQ(of("latest { num_versions: 2 }").version_policy_latest, 2U);
  EXPECT_EQ(of("all { }").version_policy_latest, std::nullopt);
  EXPECT_THAT(*of("specific { versions: [ 3, 1 ] }").version_policy_specific, ElementsAre(3, 1));
  EXPECT_THAT(*of("specific { }").version_policy_specific, ElementsAre());
}

TEST(ModelConfig, FieldsKnowTheirLines) {
  const auto config = ParseModelConfig(kFull, "c");
  ASSERT_TRUE(config.ok());
  const std::map<std::string, int>& lines = config->lines;
  EXPECT_EQ(lines.at("max_batch_size"), 4);
  EXPECT_EQ(lines.at("input.X"), 5);
  EXPECT_EQ(lines.at("output.dims"), 6);
  EXPECT_EQ(lines.at("instance_group.count"), 7);
  EXPECT_EQ(lines.at("dynamic_batching"), 8);
  EXPECT_EQ(lines.at("dynamic_batching.max_queue_delay_microseconds"), 10);
  EXPECT_EQ(lines.at("parameters.checkpoint"), 13);
  EXPECT_EQ(lines.at("model_warmup.count"), 14);
  EXPECT_EQ(lines.at("model_warmup.inputs.X"), 15);
  EXPECT_FALSE(lines.contains("platform"));
  const auto several = ParseModelConfig(
      "parameters { key: 'a' value { string_value: '' } }\n"
      "parameters { key: 'b' value { string_value: '' } }\n"
      "input [ { name: 'X' data_type: TYPE_FP32 },\n { name: 'Y' data_type: TYPE_FP32 } ]",
      "c");
  ASSERT_TRUE(several.ok()) << several.status();
  EXPECT_EQ(several->lines.at("parameters"), 1);
  EXPECT_EQ(several->lines.at("parameters.b"), 2);
  EXPECT_EQ(several->lines.at("input"), 3);
  EXPECT_EQ(several->lines.at("input.Y"), 4);
  EXPECT_FALSE(several->lines.contains("input.data_type")) << "of which?";
}

TEST(ModelConfig, RenderingKeepsUnknownToUsAndOverlaysTheRest) {
  auto config = ParseModelConfig(kFull, "c");
  ASSERT_TRUE(config.ok());
  config->outputs[0].dims = {1152};
  config->instance_groups[0].name = "m_0";
  const inference::ModelConfig wire = ModelConfigToProto(*config);
  EXPECT_TRUE(wire.output(0).is_non_linear_format_io());
  EXPECT_EQ(wire.output(0).dims(0), 1152);
  EXPECT_EQ(wire.instance_group(0).name(), "m_0");
  EXPECT_TRUE(wire.optimization().cuda().graphs());
  EXPECT_TRUE(wire.optimization().input_pinned_memory().enable());
  EXPECT_EQ(wire.version_policy().latest().num_versions(), 1U);
  EXPECT_EQ(wire.model_warmup(0).inputs().at("X").input_data_file(), "a.jpg");
}

TEST(ModelConfig, BuiltInEnsembleRendersFromTheStructAlone) {
  ModelConfig config;
  config.name = "siglip_vision";
  config.platform = "ensemble";
  config.max_batch_size = 32;
  config.inputs = {{"INPUT_IMAGE", DataType::kBytes, {1}, false}};
  config.ensemble_steps = {
      {"siglip_vision_process", -1, {{"INPUT_IMAGE", "INPUT_IMAGE"}}, {{"P", "p"}}}};
  const inference::ModelConfig wire = ModelConfigToProto(config);
  EXPECT_EQ(wire.platform(), "ensemble");
  EXPECT_EQ(wire.ensemble_scheduling().step(0).model_name(), "siglip_vision_process");
  EXPECT_EQ(wire.ensemble_scheduling().step(0).output_map().at("P"), "p");
  EXPECT_EQ(wire.instance_group_size(), 0);
  EXPECT_FALSE(wire.has_optimization());
  EXPECT_TRUE(wire.has_model_transaction_policy());
}

TEST(ModelConfig, JsonPrintsDefaultsAndNumbers) {
  ModelConfig config;
  config.name = "m";
  config.backend = "siglip";
  config.max_batch_size = 4;
  config.dynamic_batching.emplace();
  config.inputs = {{"X", DataType::kInt64, {64}, false}};
  const std::string json = ModelConfigJson(config);
  EXPECT_THAT(json, HasSubstr(R"("name":"m","platform":"","backend":"siglip")"));
  EXPECT_THAT(json, HasSubstr(R"("data_type":"TYPE_INT64","format":"FORMAT_NONE","dims":[64])"));
  EXPECT_THAT(json, HasSubstr(R"("preferred_batch_size":[4])"));
  EXPECT_THAT(json, HasSubstr(R"("max_queue_delay_microseconds":0)"));
  EXPECT_THAT(json, HasSubstr(R"("parameters":{})"));
  EXPECT_THAT(json, HasSubstr(R"("latest":{"num_versions":1})"));
}

}  // namespace
}  // namespace siglip
