#include "triton/model_config_json.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/status_macros.h"
#include "serving/config_check.h"

namespace siglip::triton {
namespace {

using Json = nlohmann::json;

absl::Status Wrong(std::string_view field, const char* expected, const Json& got) {
  return absl::InvalidArgumentError(absl::StrCat("model configuration: ", std::string(field),
                                                 ": expected ", expected, ", got ", got.dump()));
}

const Json& Field(const Json& object, const char* name) {
  static const Json kNone;
  const auto found = object.find(name);
  return found == object.end() ? kNone : *found;
}

// Protobuf's JSON has 64-bit numbers as strings, and leaves empty fields out.
absl::StatusOr<std::int64_t> Number(const Json& object, const char* name, std::int64_t absent) {
  const Json& value = Field(object, name);
  if (value.is_null()) return absent;
  if (value.is_number_integer()) return value.get<std::int64_t>();
  if (value.is_string()) {
    if (const auto number = ParseInt<std::int64_t>(value.get_ref<const std::string&>())) {
      return *number;
    }
  }
  return Wrong(name, "a number", value);
}

absl::StatusOr<std::string> Text(const Json& object, const char* name) {
  const Json& value = Field(object, name);
  if (value.is_null()) return std::string();
  if (!value.is_string()) return Wrong(name, "a string", value);
  return value.get<std::string>();
}

absl::StatusOr<DataType> Type(const std::string& name) {
  if (name == "TYPE_STRING") return DataType::kBytes;
  const auto type = ParseDataType(std::string_view(name).substr(name.starts_with("TYPE_") ? 5 : 0));
  if (type.has_value()) return *type;
  return Wrong("data_type", "a data type", name);
}

absl::StatusOr<std::vector<TensorConfig>> Tensors(const Json& config, const char* field) {
  std::vector<TensorConfig> tensors;
  for (const Json& entry : Field(config, field)) {
    if (!entry.is_object()) return Wrong(field, "objects", entry);
    TensorConfig tensor;
    SIGLIP_ASSIGN_OR_RETURN(tensor.name, Text(entry, "name"));
    SIGLIP_ASSIGN_OR_RETURN(const std::string type, Text(entry, "data_type"));
    SIGLIP_ASSIGN_OR_RETURN(tensor.datatype, Type(type));
    for (const Json& dim : Field(entry, "dims")) {
      SIGLIP_ASSIGN_OR_RETURN(const std::int64_t size, Number(Json{{"dims", dim}}, "dims", -1));
      tensor.dims.push_back(size);
    }
    tensor.optional = Field(entry, "optional") == true;
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

absl::StatusOr<std::vector<EnsembleStep>> Steps(const Json& config) {
  std::vector<EnsembleStep> steps;
  const Json& scheduling = Field(config, "ensemble_scheduling");
  if (scheduling.is_null()) return steps;
  if (!scheduling.is_object()) return Wrong("ensemble_scheduling", "an object", scheduling);
  for (const Json& entry : Field(scheduling, "step")) {
    if (!entry.is_object()) return Wrong("step", "objects", entry);
    EnsembleStep step;
    SIGLIP_ASSIGN_OR_RETURN(step.model_name, Text(entry, "model_name"));
    SIGLIP_ASSIGN_OR_RETURN(step.model_version, Number(entry, "model_version", -1));
    steps.push_back(std::move(step));
  }
  return steps;
}

absl::StatusOr<ModelConfig> Parse(const Json& json) {
  if (!json.is_object()) return Wrong("", "an object", json);
  ModelConfig config;
  SIGLIP_ASSIGN_OR_RETURN(config.name, Text(json, "name"));
  SIGLIP_ASSIGN_OR_RETURN(config.platform, Text(json, "platform"));
  SIGLIP_ASSIGN_OR_RETURN(config.backend, Text(json, "backend"));
  SIGLIP_ASSIGN_OR_RETURN(const std::int64_t max_batch_size, Number(json, "max_batch_size", 0));
  config.max_batch_size = static_cast<int>(max_batch_size);  // int32 in the core's own message
  SIGLIP_ASSIGN_OR_RETURN(config.inputs, Tensors(json, "input"));
  SIGLIP_ASSIGN_OR_RETURN(config.outputs, Tensors(json, "output"));
  SIGLIP_ASSIGN_OR_RETURN(config.ensemble_steps, Steps(json));
  for (const auto& [key, value] : Field(json, "parameters").items()) {
    if (!value.is_object()) return Wrong("parameters", "objects", value);
    SIGLIP_ASSIGN_OR_RETURN(config.parameters[key], Text(value, "string_value"));
  }
  const Json& policy = Field(json, "model_transaction_policy");
  config.decoupled = policy.is_object() && Field(policy, "decoupled") == true;
  return config;
}

void SetDims(const std::vector<TensorConfig>& tensors, const char* field, Json& config) {
  for (std::size_t i = 0; i < tensors.size(); ++i) config[field][i]["dims"] = tensors[i].dims;
}

// A field of a tensor that would make its shape another than the deployments give it.
absl::Status CheckTensorFields(const Json& json, const ModelConfig& config, const char* tensors) {
  for (const Json& tensor : Field(json, tensors)) {
    const char* field = nullptr;
    if (!Field(tensor, "reshape").is_null()) field = "reshape";
    if (Field(tensor, "is_shape_tensor") == true) field = "is_shape_tensor";
    if (field == nullptr) continue;
    return ConfigError(config, tensors,
                       absl::StrCat("'", Field(tensor, "name").get<std::string>(), "': ", field,
                                    " is not supported"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfigJson(std::string_view json) {
  const Json parsed = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) {
    return absl::InvalidArgumentError("model configuration: expected JSON, got something else");
  }
  return Parse(parsed);
}

absl::Status CheckOwnFields(std::string_view json, const ModelConfig& config) {
  const Json parsed = Json::parse(json);
  for (const char* field : {"batch_input", "batch_output"}) {
    if (Field(parsed, field).empty()) continue;
    return ConfigError(config, field, "expected none, it is not supported");
  }
  SIGLIP_RETURN_IF_ERROR(CheckTensorFields(parsed, config, "input"));
  return CheckTensorFields(parsed, config, "output");
}

bool HasWarmup(std::string_view json) { return !Field(Json::parse(json), "model_warmup").empty(); }

std::string WithDims(std::string_view json, const ModelConfig& config) {
  Json parsed = Json::parse(json);
  SetDims(config.inputs, "input", parsed);
  SetDims(config.outputs, "output", parsed);
  return parsed.dump();
}

}  // namespace siglip::triton
