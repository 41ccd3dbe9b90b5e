#pragma once

// What the HTTP parser needs beside simdjson's on-demand API: errors as Status, a depth limit, and
// checking of values that nobody reads (on-demand skips them unchecked). Private to this folder.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "serving/request.h"

#include <simdjson.h>

namespace siglip {

using JsonArray = simdjson::ondemand::array;
using JsonObject = simdjson::ondemand::object;
using JsonType = simdjson::ondemand::json_type;
using JsonValue = simdjson::ondemand::value;

// Nesting levels of a document, as Triton's limit.
inline constexpr int kMaxJsonDepth = 100;

// Ok, or InvalidArgument "failed to parse the request JSON buffer: ..." with simdjson's reason.
absl::Status CheckJson(simdjson::error_code code);
absl::Status CheckJsonDepth(int depth);

// A parser for `text`, without a byte order mark before it. REQUIRES: 64 readable bytes behind it
// (PaddedBody), which outlive the document.
absl::Status OpenJson(std::string_view text, simdjson::ondemand::parser& parser,
                      simdjson::ondemand::document& document);
// A status that says the JSON is broken, with the byte at which the document was; others as they
// are.
absl::Status WithLocation(const absl::Status& status, std::string_view text,
                          simdjson::ondemand::document& document);
// InvalidArgument if anything but white space follows the document's value.
absl::Status CheckJsonEnd(simdjson::ondemand::document& document);
// Why `text`, which begins with "{", does not end with "}".
absl::Status WrongJsonEnd(std::string_view text);

// Consumes a value of any type and checks its grammar to the last byte.
absl::Status ValidateValue(JsonValue value, int depth);
absl::Status ValidateJson(std::string_view text);

// InvalidArgument "<where>: expected <what>" if the value is of another type.
absl::StatusOr<std::string_view> ReadString(JsonValue value, std::string_view where);
absl::StatusOr<std::uint64_t> ReadUint(JsonValue value, std::string_view where);
absl::StatusOr<std::int64_t> ReadInt(JsonValue value, std::string_view where);
absl::StatusOr<bool> ReadBool(JsonValue value, std::string_view where);
absl::StatusOr<JsonArray> ReadArray(JsonValue value, std::string_view where);
absl::StatusOr<JsonObject> ReadObject(JsonValue value, std::string_view where);
// Leaves a value that is no null to be read.
absl::StatusOr<bool> IsNull(JsonValue value);
// A free parameter: string, bool, integer of 64 bits, or double, which larger integers become;
// null, arrays and objects are refused.
absl::StatusOr<ParameterValue> ReadParameter(JsonValue value, std::string_view where);

// NaN, Inf or Infinity, with or without a minus: no JSON, but what rapidjson and Python write for
// such numbers, and Triton reads. Nothing if the value is none of them. Consumes nothing.
std::optional<double> ReadNonFinite(JsonValue value);

// leaf(JsonValue, JsonType) -> Status for every scalar of a nested or flat array, in order; NaN and
// infinities come as numbers. `depth` is the array's.
template <class Leaf>
absl::Status ForEachLeaf(JsonArray array, int depth, Leaf& leaf) {
  SIGLIP_RETURN_IF_ERROR(CheckJsonDepth(depth));
  for (auto element : array) {
    JsonValue value;
    SIGLIP_RETURN_IF_ERROR(CheckJson(element.get(value)));
    JsonType type;
    if (const auto code = value.type().get(type); code != simdjson::SUCCESS) {
      if (!ReadNonFinite(value)) return CheckJson(code);
      type = JsonType::number;
    }
    if (type == JsonType::array) {
      JsonArray inner;
      SIGLIP_RETURN_IF_ERROR(CheckJson(value.get_array().get(inner)));
      SIGLIP_RETURN_IF_ERROR(ForEachLeaf(inner, depth + 1, leaf));
    } else {
      SIGLIP_RETURN_IF_ERROR(leaf(value, type));
    }
  }
  return absl::OkStatus();
}

// entry(key, JsonValue) -> Status for every field of an object.
template <class Entry>
absl::Status ForEachField(JsonObject object, int depth, Entry&& entry) {
  SIGLIP_RETURN_IF_ERROR(CheckJsonDepth(depth));
  for (auto field : object) {
    std::string_view key;
    SIGLIP_RETURN_IF_ERROR(CheckJson(field.unescaped_key().get(key)));
    JsonValue value;
    SIGLIP_RETURN_IF_ERROR(CheckJson(field.value().get(value)));
    SIGLIP_RETURN_IF_ERROR(entry(key, value));
  }
  return absl::OkStatus();
}

// The same for a whole text, which is one object and nothing behind it. REQUIRES: as OpenJson.
template <class Entry>
absl::Status ForEachRootField(std::string_view text, simdjson::ondemand::parser& parser,
                              Entry&& entry) {
  simdjson::ondemand::document document;
  SIGLIP_RETURN_IF_ERROR(OpenJson(text, parser, document));
  JsonObject root;
  const simdjson::error_code code = document.get_object().get(root);
  if (code == simdjson::INCORRECT_TYPE) {
    return absl::InvalidArgumentError("the request JSON: expected an object");
  }
  if (code == simdjson::INCOMPLETE_ARRAY_OR_OBJECT) return WrongJsonEnd(text);
  SIGLIP_RETURN_IF_ERROR(CheckJson(code));
  SIGLIP_RETURN_IF_ERROR(WithLocation(ForEachField(root, 1, entry), text, document));
  return WithLocation(CheckJsonEnd(document), text, document);
}

}  // namespace siglip
