#include "protocol/generate.h"

#include <cstdint>

#include "base/checked_math.h"
#include "base/status_macros.h"
#include "protocol/json_object.h"
#include "protocol/tensor_bytes.h"

namespace siglip {
namespace {

using OrderedJson = nlohmann::ordered_json;

// An object, "parameters" or an input's list, and scalars in it.
constexpr int kMaxGenerateDepth = 3;

const TensorConfig* FindInput(const ModelConfig& config, std::string_view name) {
  for (const TensorConfig& input : config.inputs) {
    if (input.name == name) return &input;
  }
  return nullptr;
}

OrderedJson Tensor(const TensorConfig& input, bool batched, const OrderedJson& value) {
  const OrderedJson data = value.is_array() ? value : OrderedJson::array({value});
  const std::size_t count = data.size();
  // Of one row; 0 if dims are open.
  const auto row =
      batched ? static_cast<std::size_t>(ElementCount(input.dims).value_or(0)) : std::size_t{0};
  OrderedJson shape = OrderedJson::array();
  if (row != 0 && count % row == 0) {
    shape.push_back(count / row);
    for (const std::int64_t dim : input.dims) shape.push_back(dim);
  } else {
    if (batched) shape.push_back(1);
    shape.push_back(count);
  }
  return {{"name", input.name},
          {"datatype", std::string(DataTypeName(input.datatype))},
          {"shape", shape},
          {"data", data}};
}

absl::Status AddParameter(const std::string& key, const OrderedJson& value,
                          Parameters& parameters) {
  ParameterValue parameter;
  if (value.is_string()) {
    parameter = value.get<std::string>();
  } else if (value.is_boolean()) {
    parameter = value.get<bool>();
  } else if (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX) {
    parameter = value.get<double>();
  } else if (value.is_number_integer()) {
    parameter = value.get<std::int64_t>();
  } else if (value.is_number()) {
    parameter = value.get<double>();
  } else {
    return absl::InvalidArgumentError(
        Concat("parameter '", key, "': expected a string, bool, integer or double"));
  }
  if (!parameters.try_emplace(key, std::move(parameter)).second) return GivenTwice(key);
  return CheckParameterCount(parameters.size());
}

}  // namespace

absl::StatusOr<GenerateBody> GenerateToInfer(std::string_view body, const ModelConfig& config) {
  SIGLIP_ASSIGN_OR_RETURN(
      const OrderedJson json,
      ParseJsonObject<OrderedJson>(body, kMaxGenerateDepth, "an object of inputs and parameters"));
  GenerateBody generate;
  OrderedJson infer = {{"inputs", OrderedJson::array()}};
  const auto add = [&](const std::string& key, const OrderedJson& value) -> absl::Status {
    const TensorConfig* input = FindInput(config, key);
    if (input == nullptr) return AddParameter(key, value, generate.parameters);
    infer["inputs"].push_back(Tensor(*input, config.max_batch_size > 0, value));
    return absl::OkStatus();
  };
  for (const auto& [key, value] : json.items()) {
    const bool is_input = FindInput(config, key) != nullptr;
    if (!is_input && key == "id") {
      infer["id"] = value;
    } else if (!is_input && key == "parameters") {
      if (!value.is_object()) return absl::InvalidArgumentError("parameters: expected an object");
      for (const auto& [name, inner] : value.items()) SIGLIP_RETURN_IF_ERROR(add(name, inner));
    } else {
      SIGLIP_RETURN_IF_ERROR(add(key, value));
    }
  }
  // What is not UTF-8 was refused by the parser.
  generate.infer = infer.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
  return generate;
}

}  // namespace siglip
