#include "protocol/openai.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
#include "base/json_text.h"
#include "base/normalize_row.h"
#include "protocol/json_input.h"
#include "protocol/json_keys.h"
#include "protocol/json_writer.h"
#include "protocol/status_map.h"
#include "protocol/text.h"

namespace siglip {
namespace {

static_assert(std::endian::native == std::endian::little);

// OpenAI's own limit of a list.
constexpr std::size_t kMaxItems = 2048;

// Where a status carries the field that it is about.
constexpr char kFieldPayload[] = "siglip/openai/field";

// An item before the model is known: "model" may come last.
struct RawItem {
  enum class Form { kString, kText, kImage };
  Form form = Form::kString;
  std::string_view text;
};

absl::Status WrongItem(std::size_t index, std::string_view text) {
  return absl::InvalidArgumentError(Concat("input[", index, "]: ", text));
}

// What base64 there is behind a data: URI; plain base64 as it is.
absl::StatusOr<std::string_view> ImageBase64(std::string_view text, std::size_t index) {
  if (text.starts_with("data:")) {
    const std::size_t comma = text.find(',');
    if (comma == std::string_view::npos || !text.substr(0, comma).ends_with(";base64")) {
      return WrongItem(index, "expected data:<type>;base64,<bytes>");
    }
    return text.substr(comma + 1);
  }
  return text;
}

// No character of base64 but '/' is in "://".
bool IsUrl(std::string_view text) {
  return !text.starts_with("data:") && text.substr(0, 64).find("://") != std::string_view::npos;
}

class EmbeddingsParser {
 public:
  EmbeddingsParser(std::string_view body, simdjson::ondemand::parser& parser,
                   EmbeddingsRequest& request)
      : body_(body), parser_(parser), request_(request) {}

  absl::Status Parse() {
    SIGLIP_RETURN_IF_ERROR(ForEachRootField(
        body_, parser_,
        [this](std::string_view key, JsonValue v) { return BlameField(Top(key, v), key); }));
    if (request_.model.empty()) {
      return BlameField(absl::InvalidArgumentError("model: expected a name, got none"), "model");
    }
    if (items_.empty()) {
      return BlameField(
          absl::InvalidArgumentError("input: expected at least one text or image, got none"),
          "input");
    }
    return absl::OkStatus();
  }

  // What the items are to a model that takes `input`.
  absl::Status Resolve(EmbeddingInput input) {
    for (std::size_t i = 0; i < items_.size(); ++i) {
      const RawItem& raw = items_[i];
      const bool string_is_image =
          input == EmbeddingInput::kImage ||
          (input == EmbeddingInput::kBoth && raw.text.starts_with("data:image/"));
      EmbeddingItem item;
      item.bytes = raw.text;
      item.is_image = raw.form == RawItem::Form::kImage ||
                      (raw.form == RawItem::Form::kString && string_is_image);
      if (item.is_image && input == EmbeddingInput::kText) {
        return WrongItem(i, Concat("model '", request_.model, "' takes texts, got an image"));
      }
      if (!item.is_image && input == EmbeddingInput::kImage) {
        return WrongItem(i, Concat("model '", request_.model, "' takes images, got a text"));
      }
      item.is_url = item.is_image && IsUrl(raw.text);
      if (item.is_image && !item.is_url) {
        SIGLIP_ASSIGN_OR_RETURN(item.bytes, ImageBase64(raw.text, i));
      }
      request_.items.push_back(item);
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Top(std::string_view key, JsonValue value) {
    if (key != "model" && key != "input" && key != "normalized" && key != "dimensions" &&
        key != "encoding_format") {
      return ValidateValue(value, 2);
    }
    SIGLIP_RETURN_IF_ERROR(keys_.Add(key));
    // Clients send what they were not given as null.
    if (key != "model" && key != "input") {
      SIGLIP_ASSIGN_OR_RETURN(const bool none, IsNull(value));
      if (none) return absl::OkStatus();
    }
    if (key == "model") {
      SIGLIP_ASSIGN_OR_RETURN(const std::string_view model, ReadString(value, "model"));
      request_.model = std::string(model);
      return absl::OkStatus();
    }
    if (key == "input") return Input(value);
    if (key == "normalized") {
      SIGLIP_ASSIGN_OR_RETURN(request_.normalized, ReadBool(value, "normalized"));
      return absl::OkStatus();
    }
    if (key == "dimensions") {
      SIGLIP_ASSIGN_OR_RETURN(request_.dimensions, ReadInt(value, "dimensions"));
      return absl::OkStatus();
    }
    SIGLIP_ASSIGN_OR_RETURN(const std::string_view format, ReadString(value, "encoding_format"));
    request_.base64 = format == "base64";
    if (format == "base64" || format == "float") return absl::OkStatus();
    return absl::InvalidArgumentError(
        Concat("encoding_format: expected float or base64, got '", format, "'"));
  }

  absl::Status Input(JsonValue value) {
    JsonType type;
    SIGLIP_RETURN_IF_ERROR(CheckJson(value.type().get(type)));
    if (type != JsonType::array) return Item(value);
    SIGLIP_ASSIGN_OR_RETURN(JsonArray array, ReadArray(value, "input"));
    for (auto element : array) {
      JsonValue item;
      SIGLIP_RETURN_IF_ERROR(CheckJson(element.get(item)));
      if (items_.size() == kMaxItems) {
        return absl::InvalidArgumentError(Concat("input: expected at most ", kMaxItems, " items"));
      }
      SIGLIP_RETURN_IF_ERROR(Item(item));
    }
    return absl::OkStatus();
  }

  absl::Status Item(JsonValue value) {
    JsonType type;
    SIGLIP_RETURN_IF_ERROR(CheckJson(value.type().get(type)));
    const std::size_t index = items_.size();
    RawItem item;
    if (type == JsonType::string) {
      SIGLIP_ASSIGN_OR_RETURN(item.text, ReadString(value, "input"));
    } else if (type == JsonType::object) {
      SIGLIP_ASSIGN_OR_RETURN(item, Part(value, index));
    } else {
      return WrongItem(index,
                       "expected a text or an image (token ids mean another tokenizer's tokens)");
    }
    items_.push_back(item);
    return absl::OkStatus();
  }

  absl::StatusOr<RawItem> Part(JsonValue value, std::size_t index) {
    SIGLIP_ASSIGN_OR_RETURN(JsonObject object, ReadObject(value, "input"));
    RawItem item;
    int found = 0;
    const std::string where = Concat("input[", index, "]");
    SIGLIP_RETURN_IF_ERROR(
        ForEachField(object, 3, [&](std::string_view key, JsonValue field) -> absl::Status {
          if (key == "text") {
            SIGLIP_ASSIGN_OR_RETURN(item.text, ReadString(field, Concat(where, ".text")));
            item.form = RawItem::Form::kText;
          } else if (key == "image" || key == "image_url") {
            SIGLIP_ASSIGN_OR_RETURN(item.text, Url(field, Concat(where, ".", key)));
            item.form = RawItem::Form::kImage;
          } else {
            return ValidateValue(field, 4);
          }
          ++found;
          return absl::OkStatus();
        }));
    if (found == 1) return item;
    return WrongItem(index, "expected one of text, image and image_url");
  }

  static absl::StatusOr<std::string_view> Url(JsonValue value, const std::string& where) {
    JsonType type;
    SIGLIP_RETURN_IF_ERROR(CheckJson(value.type().get(type)));
    if (type != JsonType::object) return ReadString(value, where);
    SIGLIP_ASSIGN_OR_RETURN(JsonObject object, ReadObject(value, where));
    std::optional<std::string_view> url;
    SIGLIP_RETURN_IF_ERROR(
        ForEachField(object, 4, [&](std::string_view key, JsonValue field) -> absl::Status {
          if (key != "url") return ValidateValue(field, 5);
          if (url) return GivenTwice(key);
          SIGLIP_ASSIGN_OR_RETURN(url, ReadString(field, Concat(where, ".url")));
          return absl::OkStatus();
        }));
    if (url) return *url;
    return absl::InvalidArgumentError(Concat(where, ": expected a url"));
  }

  const std::string_view body_;
  simdjson::ondemand::parser& parser_;
  EmbeddingsRequest& request_;
  JsonKeys keys_;
  std::vector<RawItem> items_;
};

// What the items' views borrow from.
struct ParsedBody {
  std::shared_ptr<const PaddedBody> body;
  simdjson::ondemand::parser parser;
};

void AppendRow(const std::vector<float>& row, bool base64, std::string& out) {
  if (base64) {
    const std::string text =
        absl::Base64Escape({reinterpret_cast<const char*>(row.data()), row.size() * sizeof(float)});
    AppendAll(out, "\"", text, "\"");
    return;
  }
  out += '[';
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (i != 0) out += ',';
    AppendJsonFloat(row[i], out);
  }
  out += ']';
}

}  // namespace

absl::StatusOr<EmbeddingModel> FindEmbeddingModel(std::span<const EmbeddingModel> models,
                                                  std::string_view id) {
  const auto model = std::find_if(models.begin(), models.end(),
                                  [&](const EmbeddingModel& m) { return m.id == id; });
  if (model != models.end()) return *model;
  std::string ids;
  for (const EmbeddingModel& m : models) AppendAll(ids, ids.empty() ? "" : ", ", m.id);
  return BlameField(absl::NotFoundError(Concat("model: expected one of ", ids, ", got '", id, "'")),
                    "model");
}

absl::StatusOr<EmbeddingsRequest> ParseEmbeddings(std::shared_ptr<const PaddedBody> body,
                                                  std::span<const EmbeddingModel> models) {
  auto storage = std::make_shared<ParsedBody>();
  storage->body = std::move(body);
  EmbeddingsRequest request;
  request.storage_bytes = storage->body->size();
  EmbeddingsParser parser(storage->body->view(), storage->parser, request);
  SIGLIP_RETURN_IF_ERROR(parser.Parse());
  SIGLIP_ASSIGN_OR_RETURN(const EmbeddingModel model, FindEmbeddingModel(models, request.model));
  SIGLIP_RETURN_IF_ERROR(BlameField(parser.Resolve(model.input), "input"));
  request.storage = std::move(storage);
  return request;
}

std::string RenderEmbeddings(const EmbeddingsRequest& request,
                             const std::vector<std::vector<float>>& rows,
                             std::int64_t input_tokens) {
  std::string json = "{\"object\":\"list\",\"data\":[";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    AppendAll(json, i == 0 ? "" : ",", "{\"object\":\"embedding\",\"index\":", i,
              ",\"embedding\":");
    std::vector<float> row = rows[i];
    if (request.normalized) NormalizeRow(row);
    AppendRow(row, request.base64, json);
    json += '}';
  }
  json += "],\"model\":";
  AppendJsonString(request.model, json);
  AppendAll(json, ",\"normalized\":", request.normalized ? "true" : "false",
            ",\"usage\":{\"prompt_tokens\":", input_tokens, ",\"total_tokens\":", input_tokens,
            "}}");
  return json;
}

std::string RenderModel(const EmbeddingModel& model) {
  std::string json = "{\"id\":";
  AppendJsonString(model.id, json);
  return json + ",\"object\":\"model\",\"created\":0,\"owned_by\":\"siglip\"}";
}

std::string RenderModelList(std::span<const EmbeddingModel> models) {
  std::string json = "{\"object\":\"list\",\"data\":[";
  for (std::size_t i = 0; i < models.size(); ++i) {
    AppendAll(json, i == 0 ? "" : ",", RenderModel(models[i]));
  }
  return json + "]}";
}

std::string OpenAiErrorBody(const OpenAiError& error) {
  const auto text_or_null = [](std::string_view text, std::string& json) {
    if (text.empty()) {
      json += "null";
    } else {
      AppendJsonString(text, json);
    }
  };
  std::string json = "{\"error\":{\"message\":";
  AppendJsonString(error.message, json);
  AppendAll(json, ",\"type\":\"",
            error.http_status >= 500 ? "server_error" : "invalid_request_error", "\",\"param\":");
  text_or_null(error.param, json);
  json += ",\"code\":";
  text_or_null(error.code, json);
  return json + "}}";
}

std::string OpenAiErrorBody(const absl::Status& status) {
  const absl::string_view message = status.message();
  const std::string field(status.GetPayload(kFieldPayload).value_or(absl::Cord()));
  const bool no_such_model = absl::IsNotFound(status) && field == "model";
  return OpenAiErrorBody({.http_status = HttpStatusOf(status),
                          .message = {message.data(), message.size()},
                          .param = field,
                          .code = no_such_model ? "model_not_found" : ""});
}

absl::Status BlameField(absl::Status status, std::string_view field) {
  if (!status.ok() && !status.GetPayload(kFieldPayload)) {
    status.SetPayload(kFieldPayload, absl::Cord(absl::string_view(field.data(), field.size())));
  }
  return status;
}

}  // namespace siglip
