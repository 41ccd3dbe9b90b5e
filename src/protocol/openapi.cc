// The text of OpenApiDocument: what the parser and the renderer of openai.cc do, for machines.

#include "base/json_text.h"
#include "protocol/openai.h"
#include "protocol/text.h"

namespace siglip {
namespace {

// Refusals that every route may make, before it is looked at or in it.
constexpr std::string_view kRefusals = R"json(
  "401":{"$ref":"#/components/responses/Error"},
  "403":{"$ref":"#/components/responses/Error"},
  "405":{"$ref":"#/components/responses/Error"},
  "431":{"$ref":"#/components/responses/Error"},
  "500":{"$ref":"#/components/responses/Error"},
  "503":{"$ref":"#/components/responses/Error"})json";

constexpr std::string_view kEmbeddings =
    R"json("/v1/embeddings":{"post":{"operationId":"embed","summary":"Embeds texts and images",
 "requestBody":{"required":true,"content":{"application/json":{"schema":{"$ref":"#/components/schemas/EmbeddingsRequest"}}}},
 "responses":{
  "200":{"description":"A vector per item","content":{"application/json":{"schema":{"$ref":"#/components/schemas/Embeddings"}}}},
  "400":{"$ref":"#/components/responses/Error"},
  "404":{"$ref":"#/components/responses/Error"},
  "415":{"$ref":"#/components/responses/Error"},
  "501":{"$ref":"#/components/responses/Error"},)json";

constexpr std::string_view kModels =
    R"json("/v1/models":{"get":{"operationId":"listModels","summary":"Models that embeddings can be asked of",
 "responses":{
  "200":{"description":"The list","content":{"application/json":{"schema":{"$ref":"#/components/schemas/Models"}}}},)json";

constexpr std::string_view kModel =
    R"json("/v1/models/{model}":{"get":{"operationId":"retrieveModel","summary":"One of them",
 "parameters":[{"name":"model","in":"path","required":true,"schema":{"type":"string"}}],
 "responses":{
  "200":{"description":"The model","content":{"application/json":{"schema":{"$ref":"#/components/schemas/Model"}}}},
  "404":{"$ref":"#/components/responses/Error"},)json";

constexpr std::string_view kDocument =
    R"json("/openapi.json":{"get":{"operationId":"openapi","summary":"This document",
 "responses":{"200":{"description":"OpenAPI 3.1","content":{"application/json":{"schema":{"type":"object"}}}}}}})json";

constexpr std::string_view kSchemas =
    R"json("responses":{"Error":{"description":"A refusal","content":{"application/json":{"schema":{"$ref":"#/components/schemas/Error"}}}}},
"schemas":{
"Item":{"anyOf":[
 {"type":"string"},
 {"type":"object","required":["text"],"properties":{"type":{"const":"text"},"text":{"type":"string"}},"additionalProperties":false},
 {"type":"object","required":["image"],"properties":{"image":{"$ref":"#/components/schemas/Image"}},"additionalProperties":false},
 {"type":"object","required":["image_url"],"properties":{"type":{"const":"image_url"},"image_url":{"anyOf":[
  {"$ref":"#/components/schemas/Image"},
  {"type":"object","required":["url"],"properties":{"url":{"$ref":"#/components/schemas/Image"}}}]}},"additionalProperties":false}]},
"Image":{"type":"string","description":"An image file, as base64, as data:<type>;base64,<bytes>, or by a URL of a server that the operator allows."},
"Embeddings":{"type":"object","required":["object","data","model","normalized","usage"],"properties":{
 "object":{"const":"list"},
 "data":{"type":"array","minItems":1,"items":{"type":"object","required":["object","index","embedding"],"properties":{
  "object":{"const":"embedding"},"index":{"type":"integer"},
  "embedding":{"anyOf":[{"type":"array","items":{"type":"number"}},{"type":"string"}]}}}},
 "model":{"type":"string"},
 "normalized":{"type":"boolean","description":"Whether the vectors have length 1"},
 "usage":{"type":"object","required":["prompt_tokens","total_tokens"],"properties":{"prompt_tokens":{"type":"integer"},"total_tokens":{"type":"integer"}}}}},
"Models":{"type":"object","required":["object","data"],"properties":{"object":{"const":"list"},
 "data":{"type":"array","items":{"$ref":"#/components/schemas/Model"}}}},
"Model":{"type":"object","required":["id","object","created","owned_by"],"properties":{
 "id":{"type":"string"},"object":{"const":"model"},"created":{"type":"integer"},"owned_by":{"type":"string"}}},
"Error":{"type":"object","required":["error"],"properties":{"error":{"type":"object","required":["message","type","param","code"],"properties":{
 "message":{"type":"string"},"type":{"type":"string"},"param":{"type":["string","null"]},"code":{"type":["string","null"]}}}}},
)json";

}  // namespace

std::string OpenApiDocument(std::span<const EmbeddingModel> models, std::string_view version,
                            bool asks_for_keys) {
  std::string json = "{\"openapi\":\"3.1.0\",\"info\":{\"title\":\"siglip\",\"version\":";
  AppendJsonString(version, json);
  json += "},\n\"paths\":{\n";
  for (const std::string_view path : {kEmbeddings, kModels, kModel}) {
    AppendAll(json, path, kRefusals, "}}},\n");
  }
  AppendAll(json, kDocument, "},\n");
  if (asks_for_keys) json += "\"security\":[{\"apiKey\":[]}],\n";
  AppendAll(json,
            "\"components\":{\"securitySchemes\":{\"apiKey\":{\"type\":\"http\",\"scheme\":"
            "\"bearer\"}},\n",
            kSchemas,
            "\"EmbeddingsRequest\":{\"type\":\"object\",\"required\":[\"model\",\"input\"],"
            "\"properties\":{\n\"model\":{\"enum\":[");
  for (std::size_t i = 0; i < models.size(); ++i) {
    if (i != 0) json += ',';
    AppendJsonString(models[i].id, json);
  }
  AppendAll(json, R"json(]},
"input":{"anyOf":[{"$ref":"#/components/schemas/Item"},
 {"type":"array","minItems":1,"maxItems":2048,"items":{"$ref":"#/components/schemas/Item"}}]},
"encoding_format":{"enum":["float","base64",null],"default":"float"},
"normalized":{"type":["boolean","null"],"default":true},
"dimensions":{"type":["integer","null"],"description":"The model's own width; others are refused."},
"user":{"type":["string","null"]}}}}}}
)json");
  return json;
}

}  // namespace siglip
