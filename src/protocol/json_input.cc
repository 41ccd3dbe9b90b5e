#include "protocol/json_input.h"

#include <limits>

#include "base/absl_view.h"
#include "base/byte_order_mark.h"
#include "base/json_text.h"
#include "protocol/padded_body.h"
#include "protocol/text.h"

namespace siglip {
namespace {

static_assert(PaddedBody::kPadding >= simdjson::SIMDJSON_PADDING);

absl::Status WrongType(std::string_view where, std::string_view expected) {
  return absl::InvalidArgumentError(Concat(where, ": expected ", expected));
}

// A wrong type is told with the place; anything else is broken JSON.
template <class T>
absl::StatusOr<T> Read(simdjson::simdjson_result<T> result, std::string_view where,
                       std::string_view expected) {
  T out;
  const simdjson::error_code code = std::move(result).get(out);
  if (code == simdjson::INCORRECT_TYPE || code == simdjson::NUMBER_OUT_OF_RANGE) {
    return WrongType(where, expected);
  }
  if (code != simdjson::SUCCESS) {
    return absl::InvalidArgumentError(
        Concat(where, ": expected ", expected, "; ", simdjson::error_message(code)));
  }
  return out;
}

template <class Source>
absl::Status ValidateScalar(Source& source, JsonType type) {
  switch (type) {
    case JsonType::string:
      return CheckJson(source.get_string().error());
    case JsonType::number:
      return CheckJson(source.get_double().error());
    case JsonType::boolean:
      return CheckJson(source.get_bool().error());
    default: {
      bool null = false;
      SIGLIP_RETURN_IF_ERROR(CheckJson(source.is_null().get(null)));
      return null ? absl::OkStatus() : CheckJson(simdjson::N_ATOM_ERROR);
    }
  }
}

// Whether a document's parser has memory for the texts of strings: simdjson 3.0 does not look, and
// writes them there.
class StringMemory : private simdjson::ondemand::document {
 public:
  static bool Of(simdjson::ondemand::document& document) {
    return (document.*&StringMemory::iter).string_buf_loc() != nullptr;
  }
};

}  // namespace

absl::Status CheckJson(simdjson::error_code code) {
  if (code == simdjson::SUCCESS) return absl::OkStatus();
  if (code == simdjson::MEMALLOC)
    return absl::ResourceExhaustedError("no memory to parse the request");
  return absl::InvalidArgumentError(Concat(kBrokenJson, ": ", simdjson::error_message(code)));
}

absl::Status CheckJsonDepth(int depth) {
  if (depth <= kMaxJsonDepth) return absl::OkStatus();
  return absl::InvalidArgumentError(
      Concat("JSON nesting depth exceeds maximum allowed limit (", kMaxJsonDepth, ")"));
}

absl::Status OpenJson(std::string_view text, simdjson::ondemand::parser& parser,
                      simdjson::ondemand::document& document) {
  std::string_view json = text;
  if (json.starts_with(kByteOrderMark)) json.remove_prefix(kByteOrderMark.size());
  const simdjson::error_code code =
      parser.iterate(json.data(), json.size(), json.size() + simdjson::SIMDJSON_PADDING)
          .get(document);
  if (code == simdjson::SUCCESS && !StringMemory::Of(document)) {
    return CheckJson(simdjson::MEMALLOC);
  }
  if (code != simdjson::UTF8_ERROR) return CheckJson(code);
  return absl::InvalidArgumentError(
      Concat(kBrokenJson, ": invalid UTF-8 at byte ", InvalidUtf8At(text)));
}

absl::Status WithLocation(const absl::Status& status, std::string_view text,
                          simdjson::ondemand::document& document) {
  std::string_view message = StdView(status.message());
  if (message.ends_with('.')) message.remove_suffix(1);
  if (!message.starts_with(kBrokenJson)) return status;
  const char* at = nullptr;
  if (document.current_location().get(at) != simdjson::SUCCESS) at = text.data() + text.size();
  return absl::Status(status.code(), Concat(message, ", at byte ", at - text.data()));
}

absl::Status CheckJsonEnd(simdjson::ondemand::document& document) {
  // current_location fails once every token has been read.
  if (document.current_location().error() == simdjson::OUT_OF_BOUNDS) return absl::OkStatus();
  return CheckJson(simdjson::TRAILING_CONTENT);
}

absl::Status WrongJsonEnd(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if ((c == '}' || c == ']') && --depth == 0) {
      return absl::InvalidArgumentError(
          Concat(kBrokenJson, ": expected nothing behind the object that ends at byte ", i));
    }
  }
  return absl::InvalidArgumentError(
      Concat(kBrokenJson, ": the object does not end, at byte ", text.size()));
}

absl::Status ValidateValue(JsonValue value, int depth) {
  JsonType type;
  SIGLIP_RETURN_IF_ERROR(CheckJson(value.type().get(type)));
  if (type == JsonType::array) {
    JsonArray array;
    SIGLIP_RETURN_IF_ERROR(CheckJson(value.get_array().get(array)));
    SIGLIP_RETURN_IF_ERROR(CheckJsonDepth(depth));
    for (auto element : array) {
      JsonValue inner;
      SIGLIP_RETURN_IF_ERROR(CheckJson(element.get(inner)));
      SIGLIP_RETURN_IF_ERROR(ValidateValue(inner, depth + 1));
    }
    return absl::OkStatus();
  }
  if (type == JsonType::object) {
    JsonObject object;
    SIGLIP_RETURN_IF_ERROR(CheckJson(value.get_object().get(object)));
    return ForEachField(object, depth, [depth](std::string_view, JsonValue inner) {
      return ValidateValue(inner, depth + 1);
    });
  }
  return ValidateScalar(value, type);
}

absl::Status ValidateJson(std::string_view text) {
  simdjson::ondemand::parser parser;
  simdjson::ondemand::document document;
  SIGLIP_RETURN_IF_ERROR(OpenJson(text, parser, document));
  bool scalar = false;
  SIGLIP_RETURN_IF_ERROR(CheckJson(document.is_scalar().get(scalar)));
  if (scalar) {
    JsonType type;
    SIGLIP_RETURN_IF_ERROR(CheckJson(document.type().get(type)));
    SIGLIP_RETURN_IF_ERROR(ValidateScalar(document, type));
  } else {
    JsonValue value;
    SIGLIP_RETURN_IF_ERROR(CheckJson(document.get_value().get(value)));
    SIGLIP_RETURN_IF_ERROR(ValidateValue(value, 1));
  }
  return CheckJsonEnd(document);
}

absl::StatusOr<std::string_view> ReadString(JsonValue value, std::string_view where) {
  return Read(value.get_string(), where, "a string");
}

absl::StatusOr<std::uint64_t> ReadUint(JsonValue value, std::string_view where) {
  return Read(value.get_uint64(), where, "an unsigned integer");
}

absl::StatusOr<std::int64_t> ReadInt(JsonValue value, std::string_view where) {
  return Read(value.get_int64(), where, "an integer of 64 bits");
}

absl::StatusOr<bool> ReadBool(JsonValue value, std::string_view where) {
  return Read(value.get_bool(), where, "true or false");
}

absl::StatusOr<JsonArray> ReadArray(JsonValue value, std::string_view where) {
  return Read(value.get_array(), where, "an array");
}

absl::StatusOr<JsonObject> ReadObject(JsonValue value, std::string_view where) {
  return Read(value.get_object(), where, "an object");
}

absl::StatusOr<bool> IsNull(JsonValue value) {
  JsonType type;
  SIGLIP_RETURN_IF_ERROR(CheckJson(value.type().get(type)));
  if (type != JsonType::null) return false;
  SIGLIP_RETURN_IF_ERROR(ValidateScalar(value, type));
  return true;
}

std::optional<double> ReadNonFinite(JsonValue value) {
  std::string_view text = value.raw_json_token();  // with the white space behind it
  text = text.substr(0, text.find_last_not_of(" \t\r\n") + 1);
  const double sign = text.starts_with('-') ? -1 : 1;
  if (text.starts_with('-')) text.remove_prefix(1);
  if (text == "NaN") return std::numeric_limits<double>::quiet_NaN();
  if (text == "Inf" || text == "Infinity") return sign * std::numeric_limits<double>::infinity();
  return std::nullopt;
}

absl::StatusOr<ParameterValue> ReadParameter(JsonValue value, std::string_view where) {
  JsonType type;
  SIGLIP_RETURN_IF_ERROR(CheckJson(value.type().get(type)));
  switch (type) {
    case JsonType::string: {
      SIGLIP_ASSIGN_OR_RETURN(const std::string_view text, ReadString(value, where));
      return ParameterValue(std::string(text));
    }
    case JsonType::boolean: {
      SIGLIP_ASSIGN_OR_RETURN(const bool flag, ReadBool(value, where));
      return ParameterValue(flag);
    }
    case JsonType::number: {
      std::int64_t integer = 0;
      if (value.get_int64().get(integer) == simdjson::SUCCESS) return ParameterValue(integer);
      double number = 0;  // an integer of more than 64 bits, too
      SIGLIP_RETURN_IF_ERROR(CheckJson(value.get_double().get(number)));
      return ParameterValue(number);
    }
    default:
      return WrongType(where, "a string, bool, integer or double");
  }
}

}  // namespace siglip
