#include "protocol/generate.h"

#include "base/status_macros.h"
#include "protocol/json_object.h"

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
  OrderedJson shape = OrderedJson::array();
  const bool rows = batched && input.dims == std::vector<std::int64_t>{1};
  if (batched && !rows) shape.push_back(1);
  shape.push_back(count);
  if (rows) shape.push_back(1);
  return {{"name", input.name},
          {"datatype", std::string(DataTypeName(input.datatype))},
          {"shape", shape},
          {"data", data}};
}

}  // namespace

absl::StatusOr<std::string> GenerateToInfer(std::string_view body, const ModelConfig& config) {
  SIGLIP_ASSIGN_OR_RETURN(
      const OrderedJson json,
      ParseJsonObject<OrderedJson>(body, kMaxGenerateDepth, "an object of inputs and parameters"));
  OrderedJson infer = {{"inputs", OrderedJson::array()}};
  OrderedJson parameters = OrderedJson::object();
  const auto add = [&parameters](const std::string& key, const OrderedJson& value) {
    if (parameters.contains(key)) return GivenTwice(key);
    parameters[key] = value;
    return absl::OkStatus();
  };
  for (const auto& [key, value] : json.items()) {
    if (const TensorConfig* input = FindInput(config, key)) {
      infer["inputs"].push_back(Tensor(*input, config.max_batch_size > 0, value));
    } else if (key == "id") {
      infer["id"] = value;
    } else if (key == "parameters" && value.is_object()) {
      for (const auto& [name, inner] : value.items()) SIGLIP_RETURN_IF_ERROR(add(name, inner));
    } else {
      SIGLIP_RETURN_IF_ERROR(add(key, value));
    }
  }
  if (!parameters.empty()) infer["parameters"] = parameters;
  // What is not UTF-8 was refused by the parser.
  return infer.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace siglip
