#include "serving/validate.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/absl_view.h"
#include "base/checked_math.h"
#include "base/status_macros.h"

namespace siglip {
namespace {

absl::string_view TypeName(DataType type) { return AbslView(DataTypeName(type)); }

const TensorConfig* FindTensor(const std::vector<TensorConfig>& tensors, std::string_view name) {
  for (const TensorConfig& tensor : tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

// The configuration's shape as Triton prints it: -1 for the batch.
std::vector<std::int64_t> FullShape(const ModelConfig& config, const TensorConfig& tensor) {
  std::vector<std::int64_t> shape;
  if (config.max_batch_size > 0) shape.push_back(-1);
  shape.insert(shape.end(), tensor.dims.begin(), tensor.dims.end());
  return shape;
}

absl::Status CheckShape(const ModelConfig& config, const TensorConfig& expected,
                        const InputTensor& input) {
  for (const std::int64_t dim : input.shape) {
    if (dim < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("inference input '", input.name, "' for model '", config.name,
                       "' has a negative dimension in shape ", ShapeText(input.shape)));
    }
  }
  const std::vector<std::int64_t> want = FullShape(config, expected);
  bool same = want.size() == input.shape.size();
  for (std::size_t i = 0; same && i < want.size(); ++i) {
    same = want[i] == -1 || want[i] == input.shape[i];
  }
  if (same) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "unexpected shape for input '", input.name, "' for model '", config.name, "'. Expected ",
      ShapeText(want), ", got ", ShapeText(input.shape),
      config.max_batch_size > 0
          ? ". NOTE: Setting a non-zero max_batch_size in the model config requires a "
            "batch dimension to be prepended to each input shape. If you want to specify "
            "the full shape including the batch dim in your input dims config, try "
            "setting max_batch_size to zero. See the model configuration docs for more "
            "info on max_batch_size."
          : ""));
}

absl::Status CheckSize(const ModelConfig& config, const InputTensor& input) {
  const std::optional<std::int64_t> elements = ElementCount(input.shape);
  if (!elements) {
    return absl::InvalidArgumentError(absl::StrCat("inference input '", input.name, "' for model '",
                                                   config.name, "' has too large a shape ",
                                                   ShapeText(input.shape)));
  }
  if (input.datatype == DataType::kBytes) {
    if (static_cast<std::uint64_t>(*elements) == input.elements.size()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("expected ", *elements, " string elements for inference input '", input.name,
                     "' for model '", config.name, "', got ", input.elements.size()));
  }
  const std::optional<std::int64_t> bytes =
      CheckedMul(*elements, static_cast<std::int64_t>(DataTypeSizeBytes(input.datatype)));
  if (bytes && static_cast<std::uint64_t>(*bytes) == input.data.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("input byte size mismatch for input '", input.name,
                                                 "' for model '", config.name, "'. Expected ",
                                                 bytes ? absl::StrCat(*bytes) : "more than 2^63",
                                                 ", got ", input.data.size()));
}

absl::Status CheckInput(const ModelConfig& config, const TensorConfig& expected,
                        const InputTensor& input) {
  if (input.datatype != expected.datatype) {
    return absl::InvalidArgumentError(absl::StrCat(
        "inference input '", input.name, "' data-type is '", TypeName(input.datatype),
        "', but model '", config.name, "' expects '", TypeName(expected.datatype), "'"));
  }
  SIGLIP_RETURN_IF_ERROR(CheckShape(config, expected, input));
  return CheckSize(config, input);
}

// Names of the inputs, each once, all that are needed; then in the configuration's order.
absl::Status ArrangeInputs(const ModelConfig& config, InferRequest& request) {
  std::set<std::string_view> seen;
  for (const InputTensor& input : request.inputs) {
    if (FindTensor(config.inputs, input.name) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("unexpected inference input '", input.name,
                                                     "' for model '", config.name, "'"));
    }
    if (!seen.insert(input.name).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          "input '", input.name, "' already exists in request for model '", config.name, "'"));
    }
  }
  if (request.inputs.size() != config.inputs.size()) {
    std::string got;
    for (const InputTensor& input : request.inputs) {
      absl::StrAppend(&got, got.empty() ? "'" : ",'", input.name, "'");
    }
    std::string missing;
    for (const TensorConfig& input : config.inputs) {
      if (!seen.contains(input.name)) {
        absl::StrAppend(&missing, missing.empty() ? "'" : ",'", input.name, "'");
      }
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "expected ", config.inputs.size(), " inputs but got ", request.inputs.size(),
        " inputs for model '", config.name, "'. Got input(s) [", got,
        "], but missing required input(s) [", missing, "]. Please provide all required input(s)."));
  }
  const auto position = [&config](const InputTensor& input) {
    return FindTensor(config.inputs, input.name) - config.inputs.data();
  };
  std::sort(request.inputs.begin(), request.inputs.end(),
            [&](const InputTensor& a, const InputTensor& b) { return position(a) < position(b); });
  return absl::OkStatus();
}

absl::Status CheckOutputs(const ModelConfig& config, const InferRequest& request) {
  std::set<std::string_view> seen;
  for (const RequestedOutput& output : request.outputs) {
    if (FindTensor(config.outputs, output.name) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("unexpected inference output '", output.name,
                                                     "' for model '", config.name, "'"));
    }
    if (!seen.insert(output.name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("output '", output.name, "' already requested"));
    }
    if (output.classification < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "output '", output.name, "': expected a classification count of at least 1, got ",
          output.classification));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckBatch(const ModelConfig& config, const InferRequest& request) {
  if (config.max_batch_size <= 0 || request.inputs.empty()) return absl::OkStatus();
  const std::int64_t batch = request.inputs[0].shape[0];
  for (const InputTensor& input : request.inputs) {
    if (input.shape[0] == batch) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "input '", input.name, "' batch size does not match other inputs for '", config.name, "'"));
  }
  if (batch < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("inference request batch-size must be >= 1 for '", config.name, "'"));
  }
  if (batch > config.max_batch_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("inference request batch-size must be <= ", config.max_batch_size, " for '",
                     config.name, "'"));
  }
  return absl::OkStatus();
}

absl::Status Validate(const ModelConfig& config, InferRequest& request) {
  SIGLIP_RETURN_IF_ERROR(ArrangeInputs(config, request));
  for (std::size_t i = 0; i < request.inputs.size(); ++i) {
    SIGLIP_RETURN_IF_ERROR(CheckInput(config, config.inputs[i], request.inputs[i]));
  }
  SIGLIP_RETURN_IF_ERROR(CheckBatch(config, request));
  return CheckOutputs(config, request);
}

// The shape of `bytes` of elements under `dims`, whose single -1 is found from the size.
absl::StatusOr<std::vector<std::int64_t>> DeduceShape(const TensorConfig& expected,
                                                      std::size_t bytes) {
  std::vector<std::int64_t> shape = expected.dims;
  std::int64_t known = static_cast<std::int64_t>(DataTypeSizeBytes(expected.datatype));
  std::int64_t* open = nullptr;
  for (std::int64_t& dim : shape) {
    if (dim >= 0) {
      known *= dim;  // dims of a loaded model: their product was checked
    } else if (open == nullptr) {
      open = &dim;
    } else {
      return absl::InvalidArgumentError(absl::StrCat("The shape of the raw input '", expected.name,
                                                     "' can not be deduced because there are more "
                                                     "than one variable-sized dimension"));
    }
  }
  if (open != nullptr) {
    const auto size = static_cast<std::int64_t>(bytes);
    if (known <= 0 || size % known != 0) {
      return absl::InvalidArgumentError(absl::StrCat("raw input '", expected.name,
                                                     "': expected a multiple of ", known,
                                                     " bytes, got ", bytes));
    }
    *open = size / known;
  }
  return shape;
}

absl::Status Deduce(const ModelConfig& config, InferRequest& request) {
  if (config.inputs.size() != 1 || request.inputs.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("Raw request must only have 1 input (found ", request.inputs.size(),
                     ") to be deduced but got ", config.inputs.size(), " inputs in '", config.name,
                     "' model configuration"));
  }
  const TensorConfig& expected = config.inputs[0];
  InputTensor& input = request.inputs[0];
  input.name = expected.name;
  input.datatype = expected.datatype;
  if (expected.datatype == DataType::kBytes) {
    if (ElementCount(expected.dims) != 1) {
      return absl::InvalidArgumentError(absl::StrCat("For BYTE datatype raw input '", expected.name,
                                                     "', the model must have input shape [1]"));
    }
    if (input.elements.empty()) {
      input.elements = {{reinterpret_cast<const char*>(input.data.data()), input.data.size()}};
    }
    input.data = {};
    input.shape = expected.dims;
  } else {
    if (input.data.empty() && input.elements.size() == 1) {
      input.data = std::as_bytes(std::span(input.elements[0].data(), input.elements[0].size()));
    }
    input.elements.clear();
    SIGLIP_ASSIGN_OR_RETURN(input.shape, DeduceShape(expected, input.data.size()));
  }
  if (config.max_batch_size > 0) input.shape.insert(input.shape.begin(), 1);
  return absl::OkStatus();
}

}  // namespace

std::string ShapeText(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i)
    absl::StrAppend(&text, i == 0 ? "" : ",", shape[i]);
  return text + "]";
}

std::string RequestPrefix(const InferRequest& request) {
  return request.id.empty() ? std::string() : absl::StrCat("[request id: ", request.id, "] ");
}

absl::Status PrefixStatus(const absl::Status& status, const std::string& prefix) {
  if (status.ok() || prefix.empty()) return status;
  absl::Status result(status.code(), absl::StrCat(prefix, status.message()));
  status.ForEachPayload([&result](absl::string_view url, const absl::Cord& payload) {
    result.SetPayload(url, payload);
  });
  return result;
}

absl::Status DeduceInput(const ModelConfig& config, InferRequest& request) {
  if (!request.deduce_input) return absl::OkStatus();
  SIGLIP_RETURN_IF_ERROR(PrefixStatus(Deduce(config, request), RequestPrefix(request)));
  request.deduce_input = false;
  return absl::OkStatus();
}

absl::Status ValidateRequest(const ModelConfig& config, InferRequest& request) {
  return PrefixStatus(Validate(config, request), RequestPrefix(request));
}

std::int64_t BatchSize(const ModelConfig& config, const InferRequest& request) {
  if (config.max_batch_size <= 0 || request.inputs.empty()) return 1;
  return request.inputs[0].shape[0];
}

}  // namespace siglip
