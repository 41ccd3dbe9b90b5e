#include "protocol/openai.h"

#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace siglip {
namespace {

using ::testing::HasSubstr;

const std::vector<EmbeddingModel> kModels = {{"both", EmbeddingInput::kBoth},
                                             {"text", EmbeddingInput::kText},
                                             {"image", EmbeddingInput::kImage}};

absl::StatusOr<EmbeddingsRequest> Parse(std::string_view json) {
  return ParseEmbeddings(std::make_shared<const PaddedBody>(json), kModels);
}

// "T:text", "I:base64" or "U:url" of each item.
std::vector<std::string> Items(std::string_view json) {
  const auto request = Parse(json);
  EXPECT_TRUE(request.ok()) << request.status() << json;
  std::vector<std::string> items;
  if (!request.ok()) return items;
  for (const EmbeddingItem& item : request->items) {
    items.push_back((item.is_url ? "U:" : item.is_image ? "I:" : "T:") + std::string(item.bytes));
  }
  return items;
}

std::string Refusal(std::string_view json) { return std::string(Parse(json).status().message()); }

TEST(ParseEmbeddings, TakesOneOrManyInEveryForm) {
  using V = std::vector<std::string>;
  EXPECT_EQ(Items(R"({"model":"text","input":"a \"b\""})"), V{"T:a \"b\""});
  EXPECT_EQ(Items(R"({"input":["a",""],"model":"text","user":{"x":[1]}})"), (V{"T:a", "T:"}));
  EXPECT_EQ(Items(R"({"model":"image","input":["QUJD","data:image/png;base64,QQ=="]})"),
            (V{"I:QUJD", "I:QQ=="}));
  EXPECT_EQ(Items(R"({"model":"both","input":["data:image/gif;base64,QQ==","data: no image",
                     {"text":"data:image/gif;base64,QQ=="},{"type":"text","text":"t"},{"image":"QQ=="},
                     {"type":"image_url","image_url":"QQ=="},
                     {"type":"image_url","image_url":{"url":"data:;base64,QQ==","detail":"low"}}]})"),
            (V{"I:QQ==", "T:data: no image", "T:data:image/gif;base64,QQ==", "T:t",
               "I:QQ==", "I:QQ==", "I:QQ=="}));
}

TEST(ParseEmbeddings, ReadsTheSwitches) {
  const auto request = Parse(
      R"({"model":"text","input":"a","encoding_format":"base64","normalized":false,"dimensions":3})");
  ASSERT_TRUE(request.ok());
  EXPECT_TRUE(request->base64);
  EXPECT_FALSE(request->normalized);
  EXPECT_EQ(request->dimensions, 3);
  const auto defaults = Parse(R"({"model":"text","input":"a"})");
  EXPECT_FALSE(defaults->base64);
  EXPECT_TRUE(defaults->normalized);
  EXPECT_FALSE(defaults->dimensions);
}

TEST(ParseEmbeddings, RefusalsSayWhatWasExpected) {
  const std::pair<const char*, const char*> cases[] = {
      {R"([])", "expected an object"},
      {R"({"model":"text")", "failed to parse"},
      {R"({"input":"a"})", "model: expected a name"},
      {R"({"model":"text"})", "input: expected at least one"},
      {R"({"model":"text","input":[]})", "input: expected at least one"},
      {R"({"model":"text","input":[1,2]})", "input[0]: expected a text or an image"},
      {R"({"model":"text","input":[["a"]]})", "input[0]: expected a text or an image"},
      {R"({"model":"text","input":null})", "input[0]: expected a text or an image"},
      {R"({"model":"text","input":["a",{"image":"QQ=="}]})", "input[1]: model 'text' takes texts"},
      {R"({"model":"image","input":{"text":"a"}})", "input[0]: model 'image' takes images"},
      {R"({"model":"both","input":{"image_url":{}}})", "input[0].image_url: expected a url"},
      {R"({"model":"both","input":{"type":"text"}})", "expected one of text, image and image_url"},
      {R"({"model":"both","input":{"text":"a","image":"QQ=="}})", "expected one of"},
      {R"({"model":"both","input":{"text":"a","text":"b"}})", "expected one of"},
      {R"({"model":"image","input":"data:image/png,abc"})", "expected data:<type>;base64,<bytes>"},
      {R"({"model":"text","input":"a","encoding_format":"hex"})",
       "encoding_format: expected float"},
      {R"({"model":"text","input":"a","normalized":1})", "normalized"},
      {R"({"model":"text","input":"a","dimensions":"3"})", "dimensions"},
  };
  for (const auto& [json, expected] : cases)
    EXPECT_THAT(Refusal(json), HasSubstr(expected)) << json;
  const auto unknown = Parse(R"({"model":"ada","input":"a"})");
  EXPECT_TRUE(absl::IsNotFound(unknown.status()));
  EXPECT_EQ(unknown.status().message(), "model: expected one of both, text, image, got 'ada'");
}

TEST(ParseEmbeddings, WhatIsGivenTwiceIsRefused) {
  for (const char* json :
       {R"({"model":"text","model":"text","input":"a"})",
        R"({"model":"text","input":"a","input":["b"]})",
        R"({"model":"text","input":"a","dimensions":null,"dimensions":3})",
        R"({"model":"text","input":"a","normalized":true,"normalized":false})",
        R"({"model":"text","input":"a","encoding_format":"float","encoding\u005fformat":"base64"})",
        R"({"model":"both","input":{"image_url":{"url":"http://a","url":"http://b"}}})"}) {
    const absl::Status status = Parse(json).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << json;
    EXPECT_THAT(std::string(status.message()), HasSubstr("is given twice")) << json;
  }
}

TEST(ParseEmbeddings, UrlsOfImagesAreToldApart) {
  using V = std::vector<std::string>;
  EXPECT_EQ(Items(R"({"model":"image","input":["https://a/b.png","QUJD"]})"),
            (V{"U:https://a/b.png", "I:QUJD"}));
  EXPECT_EQ(Items(R"({"model":"both","input":["http://a",{"image_url":{"url":"http://a"}}]})"),
            (V{"T:http://a", "U:http://a"}));
  EXPECT_EQ(Items(R"({"model":"image","input":{"image":"file:///etc/passwd"}})"),
            V{"U:file:///etc/passwd"});
  EXPECT_EQ(Items(R"({"model":"text","input":"http://a"})"), V{"T:http://a"});
}

TEST(ParseEmbeddings, ListsAreBounded) {
  std::string json = R"({"model":"text","input":["a")";
  for (int i = 1; i < 2048; ++i) json += ",\"a\"";
  EXPECT_EQ(Items(json + "]}").size(), 2048u);
  EXPECT_THAT(Refusal(json + ",\"a\"]}"), HasSubstr("at most 2048"));
}

TEST(RenderEmbeddings, StatesItsNormalisation) {
  EmbeddingsRequest request;
  request.model = "text";
  const auto unit = nlohmann::json::parse(RenderEmbeddings(request, {{3, 4}, {0, 0}}, 9));
  EXPECT_EQ(unit["data"][0]["embedding"].get<std::vector<float>>(),
            (std::vector<float>{0.6F, 0.8F}));
  EXPECT_EQ(unit["data"][1]["embedding"], (std::vector<double>{0, 0}));
  EXPECT_EQ(unit["data"][1]["index"], 1);
  EXPECT_EQ(unit["normalized"], true);
  EXPECT_EQ(unit["model"], "text");
  EXPECT_EQ(unit["usage"], (nlohmann::json{{"prompt_tokens", 9}, {"total_tokens", 9}}));
  request.normalized = false;
  request.base64 = true;
  const auto raw = nlohmann::json::parse(RenderEmbeddings(request, {{1}}, 0));
  EXPECT_EQ(raw["data"][0]["embedding"], "AACAPw==");
  EXPECT_EQ(raw["normalized"], false);
}

TEST(OpenAiErrorBody, SaysTypeFieldAndCode) {
  const auto body = [](const absl::Status& status) {
    return nlohmann::json::parse(OpenAiErrorBody(status))["error"];
  };
  EXPECT_EQ(body(absl::NotFoundError("a \"b\"")), (nlohmann::json{{"message", "a \"b\""},
                                                                  {"type", "invalid_request_error"},
                                                                  {"param", nullptr},
                                                                  {"code", nullptr}}));
  EXPECT_EQ(body(absl::UnavailableError("full"))["type"], "server_error");
  EXPECT_EQ(
      body(BlameField(BlameField(absl::InvalidArgumentError("x"), "input"), "model"))["param"],
      "input");
  EXPECT_TRUE(BlameField(absl::OkStatus(), "input").ok());
  const std::pair<const char*, const char*> fields[] = {
      {R"({"input":"a"})", "model"},
      {R"({"model":1})", "model"},
      {R"({"model":"text","input":[1]})", "input"},
      {R"({"model":"image","input":{"text":"a"}})", "input"},
      {R"({"model":"text","input":"a","dimensions":"3"})", "dimensions"},
      {R"({"model":"text","input":"a","encoding_format":"hex"})", "encoding_format"},
  };
  for (const auto& [json, field] : fields) {
    EXPECT_EQ(body(Parse(json).status())["param"], field) << json;
  }
  const auto unknown = body(Parse(R"({"model":"ada","input":"a"})").status());
  EXPECT_EQ(unknown["param"], "model");
  EXPECT_EQ(unknown["code"], "model_not_found");
  EXPECT_EQ(body(Parse("[]").status())["param"], nullptr);
}

TEST(OpenAi, OtherAnswersAreJson) {
  const auto models = nlohmann::json::parse(RenderModelList(kModels));
  EXPECT_EQ(models["data"][1]["id"], "text");
  const auto document = nlohmann::json::parse(OpenApiDocument(kModels, "1", false));
  const auto& schema = document["components"]["schemas"]["EmbeddingsRequest"];
  EXPECT_EQ(schema["properties"]["model"]["enum"].size(), 3u);
  for (const auto& [path, refusals] :
       std::map<std::string, std::vector<const char*>>{{"/v1/embeddings", {"400", "404", "415"}},
                                                       {"/v1/models", {}},
                                                       {"/v1/models/{model}", {"404"}}}) {
    const auto& answers = document["paths"][path].front()["responses"];
    EXPECT_TRUE(answers.contains("200")) << path;
    for (const char* always : {"401", "403", "405", "431", "500", "503"}) {
      EXPECT_TRUE(answers.contains(always)) << path << " " << always;
    }
    for (const char* own : refusals) EXPECT_TRUE(answers.contains(own)) << path << " " << own;
  }
  EXPECT_EQ(document["components"]["securitySchemes"]["apiKey"]["scheme"], "bearer");
  EXPECT_FALSE(document.contains("security"));
  EXPECT_TRUE(
      nlohmann::json::parse(OpenApiDocument(kModels, "1", true))["security"][0].contains("apiKey"));
}

}  // namespace
}  // namespace siglip
