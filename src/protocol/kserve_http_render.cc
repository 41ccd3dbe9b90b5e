#include <cstring>
#include <variant>

#include "base/checked_math.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "protocol/generate.h"
#include "protocol/json_writer.h"
#include "protocol/kserve_http.h"
#include "protocol/tensor_bytes.h"
#include "protocol/text.h"

namespace siglip {
namespace {

// append(value, json) for each element of possibly unaligned bytes.
template <class T, class Append>
void AppendElements(std::span<const std::byte> data, Append append, std::string& json) {
  for (std::size_t i = 0; i + sizeof(T) <= data.size(); i += sizeof(T)) {
    T value;
    std::memcpy(&value, data.data() + i, sizeof(T));
    if (i != 0) json += ',';
    append(value, json);
  }
}

template <class T>
void AppendIntegers(std::span<const std::byte> data, std::string& json) {
  AppendElements<T>(
      data,
      [](T v, std::string& out) {
        if constexpr (std::is_signed_v<T>) {
          AppendJsonInt(v, out);
        } else {
          AppendJsonUint(v, out);
        }
      },
      json);
}

absl::Status AppendStrings(const OutputTensor& output, std::string& json) {
  const std::optional<std::int64_t> count = ElementCount(output.shape);
  std::vector<std::string_view> elements;
  const std::string_view bytes(reinterpret_cast<const char*>(output.data.data()),
                               output.data.size());
  if (!count || !SplitByteElements(bytes, *count, elements).ok()) {
    return absl::InternalError(
        Concat("output '", output.name, "' is no BYTES tensor of shape ", DimsText(output.shape)));
  }
  for (std::size_t i = 0; i < elements.size(); ++i) {
    if (i != 0) json += ',';
    AppendJsonString(elements[i], json);
  }
  return absl::OkStatus();
}

absl::Status AppendData(const OutputTensor& output, std::string& json) {
  switch (output.datatype) {
    case DataType::kBool:
      AppendElements<std::uint8_t>(
          output.data, [](std::uint8_t v, std::string& out) { out += v != 0 ? "true" : "false"; },
          json);
      return absl::OkStatus();
    case DataType::kUint8:
      AppendIntegers<std::uint8_t>(output.data, json);
      return absl::OkStatus();
    case DataType::kUint16:
      AppendIntegers<std::uint16_t>(output.data, json);
      return absl::OkStatus();
    case DataType::kUint32:
      AppendIntegers<std::uint32_t>(output.data, json);
      return absl::OkStatus();
    case DataType::kUint64:
      AppendIntegers<std::uint64_t>(output.data, json);
      return absl::OkStatus();
    case DataType::kInt8:
      AppendIntegers<std::int8_t>(output.data, json);
      return absl::OkStatus();
    case DataType::kInt16:
      AppendIntegers<std::int16_t>(output.data, json);
      return absl::OkStatus();
    case DataType::kInt32:
      AppendIntegers<std::int32_t>(output.data, json);
      return absl::OkStatus();
    case DataType::kInt64:
      AppendIntegers<std::int64_t>(output.data, json);
      return absl::OkStatus();
    case DataType::kFp32:
      // 12 = a sign, 9 digits that identify a float, a point and a comma.
      json.reserve(json.size() + output.data.size() / sizeof(float) * 12);
      AppendElements<float>(output.data, AppendJsonFloat, json);
      return absl::OkStatus();
    case DataType::kFp64:
      AppendElements<double>(output.data, AppendJsonDouble, json);
      return absl::OkStatus();
    case DataType::kBytes:
      return AppendStrings(output, json);
    case DataType::kFp16:
    case DataType::kBf16:
      break;
  }
  return absl::InvalidArgumentError(
      Concat("sending ", DataTypeName(output.datatype),
             " data via JSON is not supported. Please use the binary data format for output '",
             output.name, "'"));
}

void AppendParameters(const Parameters& parameters, std::string& json) {
  json += ",\"parameters\":{";
  bool first = true;
  for (const auto& [key, value] : parameters) {
    if (!first) json += ',';
    first = false;
    AppendJsonString(key, json);
    json += ':';
    if (const auto* text = std::get_if<std::string>(&value)) {
      AppendJsonString(*text, json);
    } else if (const auto* flag = std::get_if<bool>(&value)) {
      json += *flag ? "true" : "false";
    } else if (const auto* integer = std::get_if<std::int64_t>(&value)) {
      AppendJsonInt(*integer, json);
    } else {
      AppendJsonDouble(std::get<double>(value), json);
    }
  }
  json += '}';
}

absl::Status AppendOutput(const OutputTensor& output, const OutputForms& forms,
                          HttpInferAnswer& answer) {
  std::string& json = answer.json;
  json += "{\"name\":";
  AppendJsonString(output.name, json);
  AppendAll(json, ",\"datatype\":\"", DataTypeName(output.datatype),
            "\",\"shape\":", DimsText(output.shape));
  if (forms.shared_memory.contains(output.name)) {
    json += '}';
    return absl::OkStatus();
  }
  if (forms.IsBinary(output.name)) {
    AppendAll(json, ",\"parameters\":{\"binary_data_size\":", output.data.size(), "}}");
    answer.blocks.push_back(output.data);
    answer.binary |= !output.data.empty();
    return absl::OkStatus();
  }
  json += ",\"data\":[";
  SIGLIP_RETURN_IF_ERROR(AppendData(output, json));
  json += "]}";
  return absl::OkStatus();
}

// "{" and everything before the outputs.
void AppendHead(const InferResponse& response, std::string& json) {
  json += '{';
  if (!response.id.empty()) {
    json += "\"id\":";
    AppendJsonString(response.id, json);
    json += ',';
  }
  json += "\"model_name\":";
  AppendJsonString(response.model_name, json);
  json += ",\"model_version\":";
  AppendJsonString(response.model_version, json);
  if (!response.parameters.empty()) AppendParameters(response.parameters, json);
}

}  // namespace

absl::StatusOr<std::string> RenderGenerate(const InferResponse& response) {
  std::string json;
  AppendHead(response, json);
  for (const OutputTensor& output : response.outputs) {
    json += ',';
    AppendJsonString(output.name, json);
    const bool scalar = ElementCount(output.shape) == 1;
    json += scalar ? ":" : ":[";
    SIGLIP_RETURN_IF_ERROR(AppendData(output, json));
    if (!scalar) json += ']';
  }
  return json + '}';
}

absl::StatusOr<HttpInferAnswer> RenderHttpInfer(const InferResponse& response,
                                                const OutputForms& binary) {
  HttpInferAnswer answer;
  std::string& json = answer.json;
  AppendHead(response, json);
  json += ",\"outputs\":[";
  for (std::size_t i = 0; i < response.outputs.size(); ++i) {
    if (i != 0) json += ',';
    const OutputTensor& output = response.outputs[i];
    SIGLIP_RETURN_IF_ERROR(AppendOutput(output, binary, answer));
  }
  json += "]}";
  return answer;
}

}  // namespace siglip
