#include "protocol/kserve_grpc.h"

#include <limits>
#include <optional>
#include <set>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/status_macros.h"
#include "protocol/tensor_bytes.h"
#include "protocol/text.h"

namespace siglip {
namespace {

using inference::InferParameter;
using inference::InferTensorContents;
using InputMessage = inference::ModelInferRequest::InferInputTensor;
using OutputMessage = inference::ModelInferRequest::InferRequestedOutputTensor;

absl::Status WrongParameter(std::string_view key, std::string_view expected) {
  return absl::InvalidArgumentError(
      Concat("invalid value type for '", key, "' parameter, expected ", expected));
}

absl::StatusOr<std::uint64_t> UnsignedParameter(std::string_view key, const InferParameter& value) {
  if (value.has_uint64_param()) return value.uint64_param();
  if (value.has_int64_param() && value.int64_param() >= 0) {
    return static_cast<std::uint64_t>(value.int64_param());
  }
  return WrongParameter(key, "uint64_param or a non-negative int64_param");
}

absl::Status FreeParameter(const std::string& key, const InferParameter& value,
                           InferRequest& request) {
  switch (value.parameter_choice_case()) {
    case InferParameter::kBoolParam:
      request.parameters[key] = value.bool_param();
      return absl::OkStatus();
    case InferParameter::kInt64Param:
      request.parameters[key] = value.int64_param();
      return absl::OkStatus();
    case InferParameter::kStringParam:
      request.parameters[key] = value.string_param();
      return absl::OkStatus();
    case InferParameter::kDoubleParam:
      request.parameters[key] = value.double_param();
      return absl::OkStatus();
    default:
      return WrongParameter(key, "int64_param, bool_param, string_param or double_param");
  }
}

absl::Status RequestParameter(const std::string& key, const InferParameter& value,
                              InferRequest& request) {
  if (key == "sequence_id") {
    if (value.has_string_param()) return CheckSequenceId(value.string_param());
    if (!value.has_int64_param()) return WrongParameter(key, "int64_param or string_param");
    request.sequence_id = static_cast<std::uint64_t>(value.int64_param());
  } else if (key == "sequence_start" || key == "sequence_end") {
    if (!value.has_bool_param()) return WrongParameter(key, "bool_param");
  } else if (key == "priority") {
    SIGLIP_ASSIGN_OR_RETURN(request.priority, UnsignedParameter(key, value));
  } else if (key == "timeout") {
    if (!value.has_int64_param()) return WrongParameter(key, "int64_param");
    // As there, a negative one is longer than anybody waits.
    request.timeout_us = static_cast<std::uint64_t>(value.int64_param());
  } else if (key == "triton_enable_empty_final_response") {
    // Of models that answer a request more than once: there is none here.
    if (!value.has_bool_param()) return WrongParameter(key, "bool_param");
  } else if (key.starts_with("triton_")) {
    return absl::InvalidArgumentError(
        Concat("parameter keys starting with 'triton_' are reserved, got '", key, "'"));
  } else {
    return FreeParameter(key, value, request);
  }
  return absl::OkStatus();
}

// Checks the count and hands back the bytes of a packed field: a view, no copy.
template <class Field>
absl::Status ViewContents(const Field& field, std::int64_t count, InputTensor& tensor) {
  if (std::cmp_not_equal(field.size(), count)) {
    return absl::InvalidArgumentError(Concat("input '", tensor.name, "': shape ",
                                             DimsText(tensor.shape), " needs ", count,
                                             " elements of contents, got ", field.size()));
  }
  tensor.data = std::as_bytes(std::span(field.data(), static_cast<std::size_t>(field.size())));
  return absl::OkStatus();
}

// 8 and 16 bit types travel in 32 bit fields.
template <class T, class Field>
absl::Status NarrowContents(const Field& field, std::int64_t count, InputTensor& tensor) {
  SIGLIP_RETURN_IF_ERROR(ViewContents(field, count, tensor));
  auto buffer = std::make_shared<AlignedBuffer<T>>(static_cast<std::size_t>(count));
  for (int i = 0; i < field.size(); ++i) {
    if (!std::in_range<T>(field[i])) {
      return absl::InvalidArgumentError(Concat("input '", tensor.name, "': element ", i,
                                               " does not fit ", DataTypeName(tensor.datatype),
                                               ": ", field[i]));
    }
    (*buffer)[static_cast<std::size_t>(i)] = static_cast<T>(field[i]);
  }
  tensor.data = std::as_bytes(std::as_const(*buffer).span());
  tensor.storage = std::move(buffer);
  return absl::OkStatus();
}

absl::Status StringContents(const InferTensorContents& contents, std::int64_t count,
                            InputTensor& tensor) {
  if (std::cmp_not_equal(contents.bytes_contents_size(), count)) {
    return absl::InvalidArgumentError(
        Concat("input '", tensor.name, "': shape ", DimsText(tensor.shape), " needs ", count,
               " elements of contents, got ", contents.bytes_contents_size()));
  }
  tensor.elements.assign(contents.bytes_contents().begin(), contents.bytes_contents().end());
  return absl::OkStatus();
}

int CountContents(const InferTensorContents& contents) {
  return int{contents.bool_contents_size() != 0} + int{contents.int_contents_size() != 0} +
         int{contents.int64_contents_size() != 0} + int{contents.uint_contents_size() != 0} +
         int{contents.uint64_contents_size() != 0} + int{contents.fp32_contents_size() != 0} +
         int{contents.fp64_contents_size() != 0} + int{contents.bytes_contents_size() != 0};
}

absl::Status TypedContents(const InferTensorContents& contents, InputTensor& tensor) {
  if (CountContents(contents) > 1) {
    return absl::InvalidArgumentError(
        Concat("input '", tensor.name, "': expected contents of one type, got several"));
  }
  SIGLIP_ASSIGN_OR_RETURN(const std::int64_t count, CheckedElementCount(tensor));
  switch (tensor.datatype) {
    case DataType::kBool:
      return ViewContents(contents.bool_contents(), count, tensor);
    case DataType::kInt8:
      return NarrowContents<std::int8_t>(contents.int_contents(), count, tensor);
    case DataType::kInt16:
      return NarrowContents<std::int16_t>(contents.int_contents(), count, tensor);
    case DataType::kInt32:
      return ViewContents(contents.int_contents(), count, tensor);
    case DataType::kInt64:
      return ViewContents(contents.int64_contents(), count, tensor);
    case DataType::kUint8:
      return NarrowContents<std::uint8_t>(contents.uint_contents(), count, tensor);
    case DataType::kUint16:
      return NarrowContents<std::uint16_t>(contents.uint_contents(), count, tensor);
    case DataType::kUint32:
      return ViewContents(contents.uint_contents(), count, tensor);
    case DataType::kUint64:
      return ViewContents(contents.uint64_contents(), count, tensor);
    case DataType::kFp32:
      return ViewContents(contents.fp32_contents(), count, tensor);
    case DataType::kFp64:
      return ViewContents(contents.fp64_contents(), count, tensor);
    case DataType::kBytes:
      return StringContents(contents, count, tensor);
    case DataType::kFp16:
    case DataType::kBf16:
      break;
  }
  return absl::InvalidArgumentError(Concat("input '", tensor.name, "': datatype ",
                                           DataTypeName(tensor.datatype),
                                           " must be sent in raw_input_contents"));
}

// The slice that the parameters of an input or output name; nothing if they name none.
template <class Tensor>
absl::StatusOr<std::optional<SharedMemorySlice>> FindSlice(const Tensor& tensor) {
  const auto& parameters = tensor.parameters();
  if (!parameters.contains("shared_memory_region")) {
    for (const char* key : {"shared_memory_offset", "shared_memory_byte_size"}) {
      if (!parameters.contains(key)) continue;
      return absl::InvalidArgumentError(Concat(
          "'", key, "' can not be specified without 'shared_memory_region' parameter for tensor '",
          tensor.name(), "'"));
    }
    return std::nullopt;
  }
  if (!parameters.contains("shared_memory_byte_size")) {
    return absl::InvalidArgumentError(
        Concat("'shared_memory_byte_size' must be specified along with 'shared_memory_region' "
               "parameter for tensor '",
               tensor.name(), "'"));
  }
  SharedMemorySlice slice;
  for (const auto& [key, value] : parameters) {
    if (key == "shared_memory_region") {
      if (!value.has_string_param()) return WrongParameter(key, "string_param");
      slice.region = value.string_param();
    } else if (key == "shared_memory_offset") {
      SIGLIP_ASSIGN_OR_RETURN(slice.offset, UnsignedParameter(key, value));
    } else if (key == "shared_memory_byte_size") {
      SIGLIP_ASSIGN_OR_RETURN(slice.byte_size, UnsignedParameter(key, value));
    }
  }
  return slice;
}

absl::StatusOr<InputTensor> ParseInput(const InputMessage& message) {
  InputTensor tensor;
  tensor.name = message.name();
  if (tensor.name.empty()) return absl::InvalidArgumentError("input: 'name' is missing or empty");
  const std::optional<DataType> type = ParseDataType(message.datatype());
  if (!type) {
    return absl::InvalidArgumentError(
        Concat("input '", tensor.name, "': unknown datatype '", message.datatype(), "'"));
  }
  tensor.datatype = *type;
  if (message.shape_size() > kMaxDims) {
    return absl::InvalidArgumentError(Concat("input '", tensor.name, "': expected at most ",
                                             kMaxDims, " dimensions, got ", message.shape_size()));
  }
  tensor.shape.assign(message.shape().begin(), message.shape().end());
  return tensor;
}

absl::Status ParseInputs(const inference::ModelInferRequest& message,
                         const SharedMemoryRegions* regions, InferRequest& request) {
  SIGLIP_RETURN_IF_ERROR(
      CheckTensorCount("inputs", static_cast<std::size_t>(message.inputs_size())));
  SharedInputs shared_inputs(regions);
  const bool raw = message.raw_input_contents_size() != 0;
  int next_raw = 0;  // inputs in shared memory have none
  std::set<std::string_view> names;
  for (int i = 0; i < message.inputs_size(); ++i) {
    const InputMessage& input = message.inputs(i);
    SIGLIP_RETURN_IF_ERROR(CheckParameterCount(input.parameters().size()));
    SIGLIP_ASSIGN_OR_RETURN(InputTensor tensor, ParseInput(input));
    if (!names.insert(input.name()).second) {
      return absl::InvalidArgumentError(
          Concat("input '", tensor.name, "' already exists in request"));
    }
    if (raw && input.has_contents()) {
      return absl::InvalidArgumentError(
          Concat("contents field must not be specified when using raw_input_contents for '",
                 tensor.name, "' for model '", message.model_name(), "'"));
    }
    SIGLIP_ASSIGN_OR_RETURN(const std::optional<SharedMemorySlice> slice, FindSlice(input));
    if (slice) {
      if (input.has_contents()) {
        return absl::InvalidArgumentError(
            Concat("contents field must not be specified when using shared memory for '",
                   tensor.name, "' for model '", message.model_name(), "'"));
      }
      SIGLIP_RETURN_IF_ERROR(shared_inputs.Read(*slice, tensor));
      request.inputs.push_back(std::move(tensor));
      continue;
    }
    if (raw && next_raw >= message.raw_input_contents_size()) {
      return absl::InvalidArgumentError(Concat("expected raw_input_contents for every input, got ",
                                               message.raw_input_contents_size(), " for ",
                                               message.inputs_size(), " inputs"));
    }
    SIGLIP_RETURN_IF_ERROR(raw ? SetInputBytes(message.raw_input_contents(next_raw++), tensor)
                               : TypedContents(input.contents(), tensor));
    request.inputs.push_back(std::move(tensor));
  }
  if (message.raw_input_contents_size() > next_raw) {
    return absl::InvalidArgumentError(Concat("expected number of raw_input_contents to be ",
                                             next_raw, ", got ",
                                             message.raw_input_contents_size()));
  }
  return absl::OkStatus();
}

absl::StatusOr<RequestedOutput> ParseOutput(const OutputMessage& message) {
  RequestedOutput output;
  output.name = message.name();
  if (output.name.empty()) return absl::InvalidArgumentError("output: 'name' is missing or empty");
  for (const auto& [key, value] : message.parameters()) {
    if (key != "classification") continue;
    if (!value.has_int64_param() || value.int64_param() < 1) {
      return WrongParameter(key, "an int64_param of at least 1");
    }
    output.classification =
        std::min<std::int64_t>(value.int64_param(), std::numeric_limits<std::int32_t>::max());
  }
  return output;
}

absl::Status ParseParts(const inference::ModelInferRequest& message,
                        const SharedMemoryRegions* regions, ParsedGrpcInfer& parsed) {
  SIGLIP_RETURN_IF_ERROR(CheckParameterCount(message.parameters().size()));
  for (const auto& [key, value] : message.parameters()) {
    SIGLIP_RETURN_IF_ERROR(RequestParameter(key, value, *parsed.request));
  }
  SIGLIP_RETURN_IF_ERROR(ParseInputs(message, regions, *parsed.request));
  SIGLIP_RETURN_IF_ERROR(
      CheckTensorCount("outputs", static_cast<std::size_t>(message.outputs_size())));
  std::set<std::string_view> names;
  for (const OutputMessage& output : message.outputs()) {
    SIGLIP_RETURN_IF_ERROR(CheckParameterCount(output.parameters().size()));
    SIGLIP_ASSIGN_OR_RETURN(RequestedOutput requested, ParseOutput(output));
    if (!names.insert(output.name()).second) continue;  // the first of its name counts
    SIGLIP_ASSIGN_OR_RETURN(const std::optional<SharedMemorySlice> slice, FindSlice(output));
    if (slice) {
      SIGLIP_RETURN_IF_ERROR(CheckSharedOutput(regions, requested, *slice));
      parsed.shared_memory.emplace(requested.name, *slice);
    }
    parsed.request->outputs.push_back(std::move(requested));
  }
  return absl::OkStatus();
}

void RenderParameter(const ParameterValue& value, InferParameter& message) {
  if (const auto* text = std::get_if<std::string>(&value)) {
    message.set_string_param(*text);
  } else if (const auto* flag = std::get_if<bool>(&value)) {
    message.set_bool_param(*flag);
  } else if (const auto* integer = std::get_if<std::int64_t>(&value)) {
    message.set_int64_param(*integer);
  } else {
    message.set_double_param(std::get<double>(value));
  }
}

}  // namespace

absl::StatusOr<ParsedGrpcInfer> ParseGrpcInfer(const inference::ModelInferRequest& message,
                                               std::shared_ptr<const void> owner,
                                               const SharedMemoryRegions* regions) {
  SIGLIP_RETURN_IF_ERROR(CheckRequestId(message.id()));
  ParsedGrpcInfer parsed;
  parsed.request = std::make_unique<InferRequest>();
  InferRequest& request = *parsed.request;
  request.id = message.id();
  request.model_name = message.model_name();
  request.model_version = message.model_version();
  request.body = std::move(owner);
  request.body_bytes = message.ByteSizeLong();
  const absl::Status status = ParseParts(message, regions, parsed);
  if (status.ok()) return parsed;
  if (request.id.empty()) return status;
  return absl::Status(status.code(), Concat("[request id: ", request.id, "] ", status.message()));
}

void RenderGrpcInfer(const InferResponse& response, inference::ModelInferResponse& message) {
  message.set_model_name(response.model_name);
  message.set_model_version(response.model_version);
  message.set_id(response.id);
  for (const auto& [key, value] : response.parameters) {
    RenderParameter(value, (*message.mutable_parameters())[key]);
  }
  for (const OutputTensor& output : response.outputs) {
    auto& tensor = *message.add_outputs();
    tensor.set_name(output.name);
    tensor.set_datatype(std::string(DataTypeName(output.datatype)));
    tensor.mutable_shape()->Add(output.shape.begin(), output.shape.end());
  }
}

}  // namespace siglip
