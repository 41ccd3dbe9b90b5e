#include "checkpoint/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "checkpoint/preprocessor_config.h"

namespace siglip {
namespace {

using testing::HasSubstr;

std::string ConfigError(const std::string& json) {
  const auto config = ParseSiglipConfig(json, "config.json");
  return config.ok() ? "parsed" : std::string(config.status().message());
}

TEST(ConfigTest, OmittedValuesAreTheClassDefaults) {
  const auto config = ParseSiglipConfig(R"({"model_type": "siglip"})", "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->vision.hidden_size, 768);
  EXPECT_EQ(config->vision.intermediate_size, 3072);
  EXPECT_EQ(config->vision.num_hidden_layers, 12);
  EXPECT_EQ(config->vision.num_attention_heads, 12);
  EXPECT_EQ(config->vision.image_size, 224);
  EXPECT_EQ(config->vision.patch_size, 16);
  EXPECT_EQ(config->vision.num_patches(), 196);
  EXPECT_FLOAT_EQ(config->vision.layer_norm_eps, 1e-6f);
  EXPECT_EQ(config->text.vocab_size, 32000);
  EXPECT_EQ(config->text.max_position_embeddings, 64);
  EXPECT_EQ(config->text.projection_size, 768);
}

TEST(ConfigTest, ProjectionSizeFollowsTheTextWidth) {
  const auto config = ParseSiglipConfig(
      R"({"model_type":"siglip","text_config":{"hidden_size":1152,"num_attention_heads":16},
          "vision_config":{"hidden_size":1152,"num_attention_heads":16,"image_size":384,"patch_size":14}})",
      "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->text.projection_size, 1152);
  EXPECT_EQ(config->vision.num_patches(), 729);
  EXPECT_EQ(config->vision.head_dim(), 72);
}

TEST(ConfigTest, NaflexHasTheDefaultsOfSiglip2Config) {
  const auto config = ParseSiglipConfig(R"({"model_type":"siglip2"})", "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->vision.naflex());
  EXPECT_EQ(config->vision.num_positions(), 256);
  EXPECT_EQ(config->vision.patch_size, 16);
  EXPECT_EQ(config->vision.hidden_size, 768);
  EXPECT_EQ(config->text.max_position_embeddings, 64);
}

// transformers 5 checks the types of a config's values, without conversions: SiglipTextConfig and
// SiglipVisionConfig are dataclasses that huggingface_hub makes strict.
TEST(ConfigTest, ValuesHaveTheTypesThatTransformersChecks) {
  const auto error = [](const std::string& tower, const std::string& value) {
    return ConfigError(absl::StrCat(R"({"model_type":"siglip",")", tower, "\":{", value, "}}"));
  };
  for (const char* tower : {"text_config", "vision_config"}) {
    for (const char* key :
         {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}) {
      for (const char* wrong : {"null", "12.0", "\"12\"", "true", "[12]"}) {
        EXPECT_THAT(error(tower, absl::StrCat("\"", key, "\":", wrong)),
                    HasSubstr(absl::StrCat(tower, ": \"", key, "\": expected an integer in 1..")))
            << wrong;
      }
    }
    for (const char* wrong : {"null", "0", "1", "\"1e-6\"", "false"}) {
      EXPECT_THAT(error(tower, absl::StrCat("\"layer_norm_eps\":", wrong)),
                  HasSubstr("\"layer_norm_eps\": expected a number with a point or an exponent"))
          << wrong;
    }
    EXPECT_EQ(error(tower, R"("layer_norm_eps":1e-5)"), "parsed");
    for (const char* wrong : {"null", "1", "[\"gelu_pytorch_tanh\"]"}) {
      EXPECT_THAT(error(tower, absl::StrCat("\"hidden_act\":", wrong)),
                  HasSubstr("\"hidden_act\": expected a string, got "))
          << wrong;
    }
    EXPECT_THAT(error(tower, R"("per_layer_config":{"0":{"hidden_size":8}})"),
                HasSubstr("per_layer_config"));
  }
  for (const char* wrong :
       {"\"patch_size\":[16,16]", "\"image_size\":null", "\"image_size\":224.0",
        "\"num_channels\":null", "\"vision_use_head\":null", "\"vision_use_head\":1"}) {
    EXPECT_THAT(error("vision_config", wrong), HasSubstr("expected")) << wrong;
  }
  for (const char* wrong :
       {"\"vocab_size\":null", "\"max_position_embeddings\":64.0", "\"projection_size\":\"768\""}) {
    EXPECT_THAT(error("text_config", wrong), HasSubstr("expected an integer")) << wrong;
  }
  // The one that may be null, and the parts themselves.
  EXPECT_EQ(error("text_config", "\"projection_size\":null"), "parsed");
  EXPECT_EQ(ConfigError(R"({"model_type":"siglip","text_config":null,"vision_config":null})"),
            "parsed");
  EXPECT_THAT(ConfigError(R"({"model_type":"siglip","text_config":[]})"),
              HasSubstr("text_config: expected a JSON object, got []"));
}

TEST(ConfigTest, AFileOrAModelThatOnlyTransformersCanTakeIsNamed) {
  EXPECT_EQ(ConfigError(R"({"model_type":"siglip","transformers_weights":"x.safetensors"})"),
            "config.json: \"transformers_weights\": is not supported, got \"x.safetensors\"");
  EXPECT_EQ(ConfigError(R"({"model_type":"siglip","transformers_weights":null})"), "parsed");
  EXPECT_THAT(
      ConfigError(R"({"model_type":"siglip_vision_model"})"),
      HasSubstr("got \"siglip_vision_model\" (one tower alone? The whole model is needed)"));
}

TEST(ConfigTest, OtherNamesOfTheSameActivationAreTaken) {
  for (const char* name : {"gelu_new", "gelu_accurate", "gelu_python_tanh", "gelu_fast"}) {
    EXPECT_EQ(
        ConfigError(absl::StrCat(R"({"model_type":"siglip","text_config":{"hidden_act":")", name,
                                 R"("},"vision_config":{"hidden_act":")", name, "\"}}")),
        "parsed");
  }
  for (const char* name : {"gelu", "quick_gelu", "gelu_10", "gelu_python"}) {
    EXPECT_THAT(ConfigError(absl::StrCat(R"({"model_type":"siglip","text_config":{"hidden_act":")",
                                         name, "\"}}")),
                HasSubstr(name));
  }
}

TEST(ConfigTest, WrongValuesAreNamed) {
  EXPECT_THAT(ConfigError("{"), HasSubstr("config.json: not valid JSON at byte"));
  EXPECT_THAT(ConfigError("[]"), HasSubstr("expected a JSON object"));
  EXPECT_THAT(ConfigError("{}"), HasSubstr("\"model_type\": expected \"siglip\""));
  EXPECT_THAT(ConfigError(R"({"model_type":"clip"})"), HasSubstr("\"siglip2\", got \"clip\""));
  EXPECT_THAT(ConfigError(R"({"model_type":"siglip2","vision_config":{"num_patches":255}})"),
              HasSubstr("vision_config: \"num_patches\": expected a square number, got 255"));
  EXPECT_THAT(ConfigError(R"({"model_type":"siglip2","vision_config":{"num_patches":65537}})"),
              HasSubstr("\"num_patches\": expected an integer in 1..65536"));
  EXPECT_THAT(ConfigError(R"({"model_type":"siglip","model_type":"siglip"})"),
              HasSubstr("duplicate"));
  EXPECT_THAT(ConfigError(R"({"model_type":"siglip","vision_config":{"hidden_size":0}})"),
              HasSubstr("vision_config: \"hidden_size\": expected an integer in 1..16384, got 0"));
  EXPECT_THAT(ConfigError(R"({"model_type":"siglip","vision_config":{"hidden_size":1e3}})"),
              HasSubstr("got 1000.0"));
  EXPECT_THAT(ConfigError(R"({"model_type":"siglip","vision_config":{"num_attention_heads":7}})"),
              HasSubstr("not a multiple"));
  EXPECT_THAT(ConfigError(R"({"model_type":"siglip","text_config":{"hidden_act":"relu"}})"),
              HasSubstr("gelu_pytorch_tanh, got relu"));
  EXPECT_THAT(ConfigError(R"({"model_type":"siglip","vision_config":{"vision_use_head":false}})"),
              HasSubstr("vision_use_head"));
  EXPECT_THAT(ConfigError(R"({"model_type":"siglip","vision_config":{"patch_size":225}})"),
              HasSubstr("larger than image_size"));
  EXPECT_THAT(ConfigError(R"({"model_type":"siglip","text_config":{"projection_size":512}})"),
              HasSubstr("512 differs from vision_config.hidden_size 768"));
  EXPECT_THAT(
      ConfigError(R"({"model_type":"siglip","text_config":{"vocab_size":18446744073709551615}})"),
      HasSubstr("vocab_size"));
}

TEST(PreprocessorConfigTest, ReadsWhatThePublishedFilesHold) {
  const auto config = ParsePreprocessorConfig(
      R"({"do_convert_rgb":null,"do_normalize":true,"do_rescale":true,"do_resize":true,
          "image_mean":[0.5,0.5,0.5],"image_processor_type":"SiglipImageProcessor",
          "image_std":[0.5,0.5,0.25],"resample":2,"rescale_factor":0.00392156862745098,
          "size":{"height":384,"width":384}})",
      "p.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->image_size, 384);
  EXPECT_EQ(config->resample, 2);
  EXPECT_EQ(config->image_std[2], 0.25);
  EXPECT_EQ(config->rescale_factor, 0.00392156862745098);
}

TEST(PreprocessorConfigTest, NaflexHasTheDefaultsOfSiglip2ImageProcessor) {
  const auto config = ParseNaflexPreprocessorConfig("{}", "p.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->image_size, 0);
  EXPECT_EQ(config->resample, 2);
  EXPECT_EQ(config->patch_size, 16);
  EXPECT_EQ(config->max_num_patches, 256);
  const auto other = ParseNaflexPreprocessorConfig(
      R"({"max_num_patches":1024,"patch_size":14,"resample":3})", "p.json");
  EXPECT_EQ(other->max_num_patches, 1024);
  EXPECT_EQ(other->patch_size, 14);
  EXPECT_EQ(other->resample, 3);
  EXPECT_THAT(
      std::string(
          ParseNaflexPreprocessorConfig(R"({"max_num_patches":0})", "p.json").status().message()),
      HasSubstr("\"max_num_patches\": expected an integer in 1..65536, got 0"));
}

TEST(PreprocessorConfigTest, WhatWouldChangeThePixelsIsRefusedByName) {
  const auto error = [](const std::string& json) {
    const auto config = ParsePreprocessorConfig(json, "p.json");
    return config.ok() ? "parsed" : std::string(config.status().message());
  };
  EXPECT_EQ(error("{}"), "parsed");
  EXPECT_THAT(error(R"({"resample":1})"), HasSubstr("\"resample\": expected 2 (bilinear) or 3"));
  EXPECT_THAT(error(R"({"do_resize":false})"), HasSubstr("do_resize"));
  EXPECT_THAT(error(R"({"size":{"height":384,"width":380}})"), HasSubstr("equal"));
  EXPECT_THAT(error(R"({"size":{"shortest_edge":384}})"), HasSubstr("equal"));
  EXPECT_THAT(error(R"({"image_std":[0.5,0,0.5]})"), HasSubstr("image_std"));
  EXPECT_THAT(error(R"({"image_mean":[0.5,0.5]})"), HasSubstr("three numbers"));
  // transformers takes these steps for switched off, and an edge for the shortest.
  for (const char* step : {"do_resize", "do_rescale", "do_normalize"}) {
    EXPECT_THAT(error(absl::StrCat("{\"", step, "\":null}")), HasSubstr(step));
  }
  EXPECT_THAT(error(R"({"size":384})"), HasSubstr("got 384"));
  // It refuses these itself.
  for (const char* key : {"image_mean", "image_std", "resample", "rescale_factor", "size"}) {
    EXPECT_THAT(error(absl::StrCat("{\"", key, "\":null}")), HasSubstr(key));
  }
  EXPECT_THAT(error(R"({"size":{"height":8,"width":8,"depth":1}})"), HasSubstr("depth"));
  EXPECT_THAT(error(R"({"size":[8]})"), HasSubstr("p.json: size"));
  EXPECT_THAT(error(R"({"size":[8.0,8.0]})"), HasSubstr("p.json: size"));
  EXPECT_THAT(error(R"({"image_mean":true})"), HasSubstr("image_mean"));
}

// As Python takes numbers for true and false: tests/oracle/engine_oracle.py.
TEST(PreprocessorConfigTest, StepsAreSwitchedByNumbersTooAndNotByTexts) {
  for (const auto& parse : {ParsePreprocessorConfig, ParseNaflexPreprocessorConfig}) {
    const auto error = [&](const char* step, const char* value) {
      const auto config = parse(absl::StrCat("{\"", step, "\":", value, "}"), "p.json");
      return config.ok() ? "parsed" : std::string(config.status().message());
    };
    for (const char* step : {"do_resize", "do_rescale", "do_normalize"}) {
      for (const char* on : {"true", "1", "1.0", "2", "-1", "18446744073709551615"}) {
        EXPECT_EQ(error(step, on), "parsed") << step << " " << on;
      }
      for (const char* off : {"false", "0", "0.0", "-0.0"}) {
        EXPECT_EQ(error(step, off),
                  absl::StrCat("p.json: \"", step, "\": ", off, " is not supported"));
      }
      // Python takes "false" for true.
      for (const char* text : {"\"true\"", "\"false\"", "\"\"", "[]"}) {
        EXPECT_EQ(
            error(step, text),
            absl::StrCat("p.json: \"", step, "\": expected true, false or a number, got ", text));
      }
    }
    for (const char* any : {"1", "0", "false", "\"false\""}) {
      EXPECT_EQ(error("do_convert_rgb", any), "parsed") << any;
    }
  }
}

// Which class AutoImageProcessor of transformers 5 makes of each: tests/oracle/engine_oracle.py.
TEST(PreprocessorConfigTest, AnotherClassThanTheModelsIsRefusedByName) {
  const auto error = [](auto parse, const std::string& json) {
    const auto config = parse(json, "p.json");
    return config.ok() ? "parsed" : std::string(config.status().message());
  };
  for (const char* same : {R"({"image_processor_type":"SiglipImageProcessorFast"})",
                           R"({"image_processor_type":"SiglipImageProcessorPil"})",
                           R"({"feature_extractor_type":"SiglipFeatureExtractor"})",
                           R"({"image_processor_type":"SiglipImageProcessor",
                               "feature_extractor_type":"CLIPFeatureExtractor"})",
                           R"({"image_processor_type":null})"}) {
    EXPECT_EQ(error(ParsePreprocessorConfig, same), "parsed") << same;
  }
  // Bilinear if nothing is said.
  EXPECT_EQ(error(ParsePreprocessorConfig, R"({"image_processor_type":"ViTImageProcessor"})"),
            "p.json: \"image_processor_type\": expected SiglipImageProcessor, got "
            "\"ViTImageProcessor\"");
  EXPECT_EQ(error(ParsePreprocessorConfig, R"({"feature_extractor_type":"CLIPFeatureExtractor"})"),
            "p.json: \"feature_extractor_type\": expected SiglipFeatureExtractor, got "
            "\"CLIPFeatureExtractor\"");
  EXPECT_THAT(error(ParsePreprocessorConfig, R"({"image_processor_type":"Siglip2ImageProcessor"})"),
              HasSubstr("expected SiglipImageProcessor"));
  EXPECT_THAT(
      error(ParseNaflexPreprocessorConfig, R"({"image_processor_type":"SiglipImageProcessor"})"),
      HasSubstr("expected Siglip2ImageProcessor"));
  EXPECT_EQ(error(ParseNaflexPreprocessorConfig,
                  R"({"image_processor_type":"Siglip2ImageProcessorFast"})"),
            "parsed");
}

// What SiglipImageProcessorPil of transformers 5 does with each: tests/oracle/engine_oracle.py.
TEST(PreprocessorConfigTest, AnotherFrameAfterTheResizeIsRefusedByName) {
  const auto error = [](const std::string& more) {
    const auto config =
        ParsePreprocessorConfig("{\"size\":{\"height\":48,\"width\":48}," + more + "}", "p.json");
    return config.ok() ? "parsed" : std::string(config.status().message());
  };
  for (const char* same : {"48", "[48,48]", R"({"height":48,"width":48})"}) {
    EXPECT_EQ(error(absl::StrCat(R"("do_center_crop":true,"crop_size":)", same)), "parsed");
    EXPECT_EQ(error(absl::StrCat(R"("do_pad":true,"pad_size":)", same)), "parsed");
  }
  for (const char* other : {"50", "[48,50]", R"({"height":50,"width":50})",
                            R"({"height":48,"width":46})", R"({"shortest_edge":48})"}) {
    EXPECT_THAT(error(absl::StrCat(R"("do_center_crop":true,"crop_size":)", other)),
                HasSubstr("\"do_center_crop\": true is supported with a \"crop_size\" equal to"));
    EXPECT_THAT(error(absl::StrCat(R"("do_pad":true,"pad_size":)", other)), HasSubstr("pad_size"));
    for (const char* off : {"false", "null", "0"}) {
      EXPECT_EQ(error(absl::StrCat(R"("do_center_crop":)", off, R"(,"crop_size":)", other,
                                   R"(,"do_pad":)", off, R"(,"pad_size":)", other)),
                "parsed");
    }
  }
  EXPECT_THAT(error(R"("do_center_crop":true)"), HasSubstr("got none"));
  EXPECT_THAT(error(R"("do_center_crop":1,"crop_size":50)"), HasSubstr("crop_size"));
  EXPECT_THAT(error(R"("do_pad":1,"pad_size":50)"), HasSubstr("pad_size"));
  EXPECT_EQ(error(R"("do_pad":true)"), "parsed");
  EXPECT_TRUE(ParseNaflexPreprocessorConfig(
                  R"({"do_center_crop":true,"crop_size":50,"do_pad":true,"pad_size":50})", "p.json")
                  .ok())
      << "its processor has neither step";
}

TEST(PreprocessorConfigTest, OneNumberMayStandForThreeAndAListForASize) {
  const auto config =
      ParsePreprocessorConfig(R"({"image_mean":0.25,"image_std":0.75,"size":[45,45]})", "p.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->image_mean, testing::Each(0.25));
  EXPECT_THAT(config->image_std, testing::Each(0.75));
  EXPECT_EQ(config->image_size, 45);
}

TEST(PreprocessorConfigTest, NaflexNeedsItsPatchesAndDoesNotReadASize) {
  const auto error = [](const std::string& json) {
    const auto config = ParseNaflexPreprocessorConfig(json, "p.json");
    return config.ok() ? "parsed" : std::string(config.status().message());
  };
  EXPECT_THAT(error(R"({"patch_size":null})"), HasSubstr("patch_size"));
  EXPECT_THAT(error(R"({"max_num_patches":null})"), HasSubstr("max_num_patches"));
  EXPECT_EQ(error(R"({"size":null,"resample":null})"), "parsed");
}

}  // namespace
}  // namespace siglip
