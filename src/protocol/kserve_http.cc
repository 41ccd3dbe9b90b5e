#include "protocol/kserve_http.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/checked_math.h"
#include "base/status_macros.h"
#include "protocol/json_input.h"
#include "protocol/json_keys.h"
#include "protocol/tensor_bytes.h"
#include "protocol/text.h"

namespace siglip {
namespace {

// Where an input's bytes come from, before the binary tail is cut.
struct InputState {
  InputTensor tensor;
  JsonKeys keys;
  JsonKeys parameter_keys;
  std::optional<SharedMemorySlice> shared_memory;
  std::optional<std::uint64_t> binary_bytes;
  std::string_view deferred_data;  // the JSON array, if it came before shape or datatype
};

struct OutputState {
  RequestedOutput output;
  std::optional<bool> binary;
  SharedMemorySlice shared_memory;
  JsonKeys keys;
  JsonKeys parameter_keys;
};

class InferParser {
 public:
  InferParser(const HttpInferInput& input, std::size_t head_bytes, InferRequest& request,
              OutputForms& binary)
      : regions_(input.regions),
        body_(input.body),
        head_(body_->view().substr(0, head_bytes)),
        request_(request),
        binary_(binary),
        parser_(std::make_shared<simdjson::ondemand::parser>()) {}

  absl::Status Parse() {
    SIGLIP_RETURN_IF_ERROR(ForEachRootField(
        head_, *parser_, [this](std::string_view key, JsonValue v) { return Top(key, v); }));
    if (!keys_.contains("inputs")) {
      return absl::InvalidArgumentError("Unable to find 'inputs' in the request JSON");
    }
    return Finish();
  }

 private:
  absl::Status Top(std::string_view key, JsonValue value) {
    if (key != "id" && key != "parameters" && key != "inputs" && key != "outputs") {
      return ValidateValue(value, 2);
    }
    SIGLIP_RETURN_IF_ERROR(keys_.Add(key));
    if (key == "id") {
      SIGLIP_ASSIGN_OR_RETURN(const std::string_view id, ReadString(value, "id"));
      SIGLIP_RETURN_IF_ERROR(CheckRequestId(id));
      request_.id = id;
      return absl::OkStatus();
    }
    if (key == "parameters") {
      SIGLIP_ASSIGN_OR_RETURN(JsonObject object, ReadObject(value, "parameters"));
      std::size_t count = 0;
      JsonKeys keys;
      return ForEachField(object, 2, [&](std::string_view k, JsonValue v) -> absl::Status {
        SIGLIP_RETURN_IF_ERROR(CheckParameterCount(++count));
        SIGLIP_RETURN_IF_ERROR(keys.Add(k));
        return RequestParameter(k, v);
      });
    }
    SIGLIP_ASSIGN_OR_RETURN(JsonArray array, ReadArray(value, key));
    std::size_t count = 0;
    for (auto element : array) {
      JsonValue entry;
      SIGLIP_RETURN_IF_ERROR(CheckJson(element.get(entry)));
      SIGLIP_RETURN_IF_ERROR(CheckTensorCount(key, ++count));
      SIGLIP_ASSIGN_OR_RETURN(JsonObject object, ReadObject(entry, Concat(key, " entry")));
      SIGLIP_RETURN_IF_ERROR(key == "inputs" ? Input(object) : Output(object));
    }
    return absl::OkStatus();
  }

  absl::Status RequestParameter(std::string_view key, JsonValue value) {
    const std::string where = Concat("parameter '", key, "'");
    if (key == "sequence_id") {
      JsonType type;
      SIGLIP_RETURN_IF_ERROR(CheckJson(value.type().get(type)));
      if (type == JsonType::string) {
        SIGLIP_ASSIGN_OR_RETURN(const std::string_view id, ReadString(value, where));
        return CheckSequenceId(id);
      }
      SIGLIP_ASSIGN_OR_RETURN(request_.sequence_id, ReadUint(value, where));
    } else if (key == "sequence_start" || key == "sequence_end") {
      return ReadBool(value, where).status();
    } else if (key == "priority") {
      SIGLIP_ASSIGN_OR_RETURN(request_.priority, ReadUint(value, where));
    } else if (key == "timeout") {
      SIGLIP_ASSIGN_OR_RETURN(request_.timeout_us, ReadUint(value, where));
    } else if (key == "binary_data_output") {
      SIGLIP_ASSIGN_OR_RETURN(binary_.by_default, ReadBool(value, where));
    } else if (key.starts_with("triton_")) {
      return absl::InvalidArgumentError(
          Concat("parameter keys starting with 'triton_' are reserved, got '", key, "'"));
    } else {
      SIGLIP_ASSIGN_OR_RETURN(ParameterValue parameter, ReadParameter(value, where));
      request_.parameters.insert_or_assign(std::string(key), std::move(parameter));
    }
    return absl::OkStatus();
  }

  absl::Status Input(JsonObject object) {
    InputState state;
    SIGLIP_RETURN_IF_ERROR(ForEachField(object, 3, [&](std::string_view key, JsonValue value) {
      return InputField(key, value, state);
    }));
    const std::string& name = state.tensor.name;
    if (name.empty()) return absl::InvalidArgumentError("input: 'name' is missing or empty");
    for (const char* key : {"shape", "datatype"}) {
      if (state.keys.contains(key)) continue;
      return absl::InvalidArgumentError(Concat("input '", name, "': '", key, "' is missing"));
    }
    if (!input_names_.insert(name).second) {
      return absl::InvalidArgumentError(Concat("input '", name, "' already exists in request"));
    }
    const int sources = int{state.keys.contains("data")} + int{state.binary_bytes.has_value()} +
                        int{state.shared_memory && !state.shared_memory->region.empty()};
    if (sources != 1) {
      return absl::InvalidArgumentError(Concat(
          "Input must set only one of the following fields: 'data', 'binary_data_size' in "
          "'parameters', "
          "'shared_memory_region' in 'parameters'. But ",
          sources > 1 ? "multiple fields are" : "no field is", " set for input '", name, "'"));
    }
    if (state.deferred_data.data() != nullptr) SIGLIP_RETURN_IF_ERROR(DeferredData(state));
    inputs_.push_back(std::move(state));
    return absl::OkStatus();
  }

  absl::Status InputField(std::string_view key, JsonValue value, InputState& state) {
    InputTensor& tensor = state.tensor;
    if (key != "name" && key != "datatype" && key != "shape" && key != "data" &&
        key != "parameters") {
      return ValidateValue(value, 4);
    }
    SIGLIP_RETURN_IF_ERROR(state.keys.Add(key));
    if (key == "name") {
      SIGLIP_ASSIGN_OR_RETURN(tensor.name, ReadString(value, "input name"));
    } else if (key == "datatype") {
      SIGLIP_ASSIGN_OR_RETURN(const std::string_view text, ReadString(value, "input datatype"));
      const std::optional<DataType> type = ParseDataType(text);
      if (!type) {
        return absl::InvalidArgumentError(
            Concat("input '", tensor.name, "': unknown datatype '", text, "'"));
      }
      tensor.datatype = *type;
    } else if (key == "shape") {
      return Shape(value, state);
    } else if (key == "data") {
      return Data(value, state);
    } else {
      return TensorParameters(
          value, [&](std::string_view k, JsonValue v) { return InputParameter(k, v, state); });
    }
    return absl::OkStatus();
  }

  // `visit` as of ForEachField. What is no object has nothing that is looked for.
  template <class Visit>
  static absl::Status TensorParameters(JsonValue value, Visit visit) {
    JsonType type;
    SIGLIP_RETURN_IF_ERROR(CheckJson(value.type().get(type)));
    if (type != JsonType::object) return ValidateValue(value, 4);
    SIGLIP_ASSIGN_OR_RETURN(JsonObject parameters, ReadObject(value, "parameters"));
    return ForEachField(parameters, 4, visit);
  }

  absl::Status Shape(JsonValue value, InputState& state) {
    SIGLIP_ASSIGN_OR_RETURN(JsonArray array, ReadArray(value, "input shape"));
    for (auto element : array) {
      JsonValue dim;
      SIGLIP_RETURN_IF_ERROR(CheckJson(element.get(dim)));
      SIGLIP_ASSIGN_OR_RETURN(const std::int64_t size, ReadInt(dim, "input shape"));
      if (state.tensor.shape.size() == kMaxDims) {
        return absl::InvalidArgumentError(Concat("input shape: more than ", kMaxDims, " entries"));
      }
      state.tensor.shape.push_back(size);
    }
    return absl::OkStatus();
  }

  absl::Status InputParameter(std::string_view key, JsonValue value, InputState& state) {
    if (key != "binary_data_size" && !key.starts_with("shared_memory_")) {
      return ValidateValue(value, 5);
    }
    SIGLIP_RETURN_IF_ERROR(state.parameter_keys.Add(key));
    if (key == "binary_data_size") {
      SIGLIP_ASSIGN_OR_RETURN(state.binary_bytes, ReadUint(value, "parameter 'binary_data_size'"));
      return absl::OkStatus();
    }
    if (!state.shared_memory) state.shared_memory.emplace();
    return SharedMemoryField(key, value, *state.shared_memory);
  }

  static absl::Status SharedMemoryField(std::string_view key, JsonValue value,
                                        SharedMemorySlice& slice) {
    const std::string where = Concat("parameter '", key, "'");
    if (key == "shared_memory_region") {
      SIGLIP_ASSIGN_OR_RETURN(slice.region, ReadString(value, where));
    } else if (key == "shared_memory_offset") {
      SIGLIP_ASSIGN_OR_RETURN(slice.offset, ReadUint(value, where));
    } else if (key == "shared_memory_byte_size") {
      SIGLIP_ASSIGN_OR_RETURN(slice.byte_size, ReadUint(value, where));
    } else {
      return ValidateValue(value, 5);
    }
    return absl::OkStatus();
  }

  absl::Status Data(JsonValue value, InputState& state) {
    SIGLIP_ASSIGN_OR_RETURN(JsonArray array, ReadArray(value, "input data"));
    if (state.keys.contains("datatype") && state.keys.contains("shape")) {
      return Elements(array, parser_, state.tensor);
    }
    return CheckJson(array.raw_json().get(state.deferred_data));
  }

  absl::Status DeferredData(InputState& state) {
    auto parser = std::make_shared<simdjson::ondemand::parser>();
    simdjson::ondemand::document document;
    SIGLIP_RETURN_IF_ERROR(OpenJson(state.deferred_data, *parser, document));
    JsonArray array;
    SIGLIP_RETURN_IF_ERROR(CheckJson(document.get_array().get(array)));
    return Elements(array, parser, state.tensor);
  }

  // `parser` owns the unescaped text of strings.
  absl::Status Elements(JsonArray array, const std::shared_ptr<simdjson::ondemand::parser>& parser,
                        InputTensor& tensor) {
    SIGLIP_ASSIGN_OR_RETURN(const std::int64_t count, CheckedElementCount(tensor));
    // An element takes at least a digit and a separator: shape alone must not make us allocate.
    if (std::cmp_greater(count, head_.size() / 2 + 1)) return WrongCount(tensor, count, "fewer");
    switch (tensor.datatype) {
      case DataType::kBytes:
        return Strings(array, parser, count, tensor);
      case DataType::kBool:
        return Bools(array, count, tensor);
      case DataType::kUint8:
        return Numbers<std::uint8_t>(array, count, tensor);
      case DataType::kUint16:
        return Numbers<std::uint16_t>(array, count, tensor);
      case DataType::kUint32:
        return Numbers<std::uint32_t>(array, count, tensor);
      case DataType::kUint64:
        return Numbers<std::uint64_t>(array, count, tensor);
      case DataType::kInt8:
        return Numbers<std::int8_t>(array, count, tensor);
      case DataType::kInt16:
        return Numbers<std::int16_t>(array, count, tensor);
      case DataType::kInt32:
        return Numbers<std::int32_t>(array, count, tensor);
      case DataType::kInt64:
        return Numbers<std::int64_t>(array, count, tensor);
      case DataType::kFp32:
        return Numbers<float>(array, count, tensor);
      case DataType::kFp64:
        return Numbers<double>(array, count, tensor);
      case DataType::kFp16:
      case DataType::kBf16:
        break;
    }
    return absl::InvalidArgumentError(Concat("input '", tensor.name, "': datatype ",
                                             DataTypeName(tensor.datatype),
                                             " cannot be sent as JSON, send it as binary data"));
  }

  static absl::Status WrongCount(const InputTensor& tensor, std::int64_t count,
                                 std::string_view got) {
    return absl::InvalidArgumentError(Concat("input '", tensor.name, "': shape ",
                                             DimsText(tensor.shape), " needs ", count,
                                             " elements of data, got ", got));
  }

  // write(value, type, index) stores one element.
  template <class Write>
  absl::Status Fill(JsonArray array, std::int64_t count, const InputTensor& tensor, Write&& write) {
    std::int64_t filled = 0;
    auto leaf = [&](JsonValue value, JsonType type) -> absl::Status {
      if (filled == count) return WrongCount(tensor, count, "more");
      return write(value, type, static_cast<std::size_t>(filled++));
    };
    SIGLIP_RETURN_IF_ERROR(ForEachLeaf(array, 4, leaf));
    return filled == count ? absl::OkStatus() : WrongCount(tensor, count, Concat(filled));
  }

  static absl::Status BadElement(const InputTensor& tensor, std::size_t index) {
    return absl::InvalidArgumentError(Concat("input '", tensor.name, "': element ", index,
                                             " of data is not a valid ",
                                             DataTypeName(tensor.datatype)));
  }

  template <class T>
  static bool ReadNumber(JsonValue value, T& out) {
    if constexpr (std::is_floating_point_v<T>) {
      double number = 0;
      if (value.get_double().get(number) == simdjson::SUCCESS) {
        out = static_cast<T>(number);
        return true;
      }
      const std::optional<double> none = ReadNonFinite(value);
      out = static_cast<T>(none.value_or(0));
      return none.has_value();
    } else if constexpr (std::is_signed_v<T>) {
      std::int64_t number = 0;
      if (value.get_int64().get(number) != simdjson::SUCCESS) return false;
      out = static_cast<T>(number);
      return std::in_range<T>(number);
    } else {
      std::uint64_t number = 0;
      if (value.get_uint64().get(number) != simdjson::SUCCESS) return false;
      out = static_cast<T>(number);
      return std::in_range<T>(number);
    }
  }

  template <class T>
  absl::Status Numbers(JsonArray array, std::int64_t count, InputTensor& tensor) {
    auto buffer = std::make_shared<AlignedBuffer<T>>(static_cast<std::size_t>(count));
    SIGLIP_RETURN_IF_ERROR(
        Fill(array, count, tensor, [&](JsonValue value, JsonType, std::size_t i) -> absl::Status {
          if (ReadNumber(value, (*buffer)[i])) return absl::OkStatus();
          return BadElement(tensor, i);
        }));
    tensor.data = std::as_bytes(std::as_const(*buffer).span());
    tensor.storage = std::move(buffer);
    return absl::OkStatus();
  }

  absl::Status Bools(JsonArray array, std::int64_t count, InputTensor& tensor) {
    auto buffer = std::make_shared<AlignedBuffer<std::uint8_t>>(static_cast<std::size_t>(count));
    SIGLIP_RETURN_IF_ERROR(
        Fill(array, count, tensor, [&](JsonValue value, JsonType, std::size_t i) -> absl::Status {
          bool flag = false;
          if (value.get_bool().get(flag) != simdjson::SUCCESS) {
            return BadElement(tensor, i);
          }
          (*buffer)[i] = flag;
          return absl::OkStatus();
        }));
    tensor.data = std::as_bytes(std::as_const(*buffer).span());
    tensor.storage = std::move(buffer);
    return absl::OkStatus();
  }

  absl::Status Strings(JsonArray array, const std::shared_ptr<simdjson::ondemand::parser>& parser,
                       std::int64_t count, InputTensor& tensor) {
    tensor.elements.resize(static_cast<std::size_t>(count));
    return Fill(array, count, tensor,
                [&](JsonValue value, JsonType type, std::size_t i) -> absl::Status {
                  if (type != JsonType::string) return BadElement(tensor, i);
                  // A base64 image has no escapes and is megabytes long: a view of the body.
                  std::string_view token = value.raw_json_token();
                  while (!token.empty() && token.back() != '"') token.remove_suffix(1);
                  const bool plain = token.find('\\') == std::string_view::npos;
                  simdjson::ondemand::raw_json_string raw;
                  if (plain && token.size() >= 2) {
                    SIGLIP_RETURN_IF_ERROR(CheckJson(value.get_raw_json_string().get(raw)));
                    tensor.elements[i] = token.substr(1, token.size() - 2);
                    return absl::OkStatus();
                  }
                  if (value.get_string().get(tensor.elements[i]) != simdjson::SUCCESS) {
                    return BadElement(tensor, i);
                  }
                  tensor.storage = parser;
                  return absl::OkStatus();
                });
  }

  static absl::Status OutputParameter(std::string_view key, JsonValue value, OutputState& state) {
    const bool shared_memory = key.starts_with("shared_memory_");
    if (key != "binary_data" && key != "classification" && !shared_memory) {
      return ValidateValue(value, 5);
    }
    SIGLIP_RETURN_IF_ERROR(state.parameter_keys.Add(key));
    if (shared_memory) return SharedMemoryField(key, value, state.shared_memory);
    if (key == "binary_data") {
      SIGLIP_ASSIGN_OR_RETURN(state.binary, ReadBool(value, "parameter 'binary_data'"));
    } else {
      SIGLIP_ASSIGN_OR_RETURN(const std::uint64_t n, ReadUint(value, "parameter 'classification'"));
      // Any number above the class count means all classes.
      state.output.classification = static_cast<std::int64_t>(
          std::min<std::uint64_t>(n, std::numeric_limits<std::int32_t>::max()));
    }
    return absl::OkStatus();
  }

  static absl::Status OutputField(std::string_view key, JsonValue value, OutputState& state) {
    if (key != "name" && key != "parameters") return ValidateValue(value, 4);
    SIGLIP_RETURN_IF_ERROR(state.keys.Add(key));
    if (key == "name") {
      SIGLIP_ASSIGN_OR_RETURN(state.output.name, ReadString(value, "output name"));
      return absl::OkStatus();
    }
    return TensorParameters(
        value, [&](std::string_view k, JsonValue v) { return OutputParameter(k, v, state); });
  }

  absl::Status Output(JsonObject object) {
    OutputState state;
    SIGLIP_RETURN_IF_ERROR(ForEachField(object, 3, [&](std::string_view key, JsonValue value) {
      return OutputField(key, value, state);
    }));
    auto& [output, binary, shared_memory, keys, parameter_keys] = state;
    if (output.name.empty())
      return absl::InvalidArgumentError("output: 'name' is missing or empty");
    // The first of its name counts.
    if (!output_names_.insert(output.name).second) return absl::OkStatus();
    if (!shared_memory.region.empty()) {
      if (binary.value_or(false)) {
        return absl::InvalidArgumentError(
            Concat("output '", output.name,
                   "': expected either 'binary_data' or 'shared_memory_region', got both"));
      }
      SIGLIP_RETURN_IF_ERROR(CheckSharedOutput(regions_, output, shared_memory));
      binary_.shared_memory.emplace(output.name, shared_memory);
    }
    if (binary) binary_.by_name.emplace(output.name, *binary);
    request_.outputs.push_back(std::move(output));
    return absl::OkStatus();
  }

  // Cuts the binary tail in the order of the inputs.
  absl::Status Finish() {
    // A request's own default is that of outputs which it does not name.
    if (!request_.outputs.empty()) binary_.by_default = false;
    std::string_view tail = body_->view().substr(head_.size());
    for (InputState& state : inputs_) {
      if (state.binary_bytes) {
        if (*state.binary_bytes > tail.size()) {
          return absl::InvalidArgumentError(
              Concat("unexpected size for input '", state.tensor.name, "', expecting ",
                     *state.binary_bytes - tail.size(), " additional bytes for model '",
                     request_.model_name, "'"));
        }
        SIGLIP_RETURN_IF_ERROR(SetInputBytes(tail.substr(0, *state.binary_bytes), state.tensor));
        tail.remove_prefix(*state.binary_bytes);
      } else if (state.shared_memory && !state.shared_memory->region.empty()) {
        SIGLIP_RETURN_IF_ERROR(shared_inputs_.Read(*state.shared_memory, state.tensor));
      }
      request_.inputs.push_back(std::move(state.tensor));
    }
    if (!tail.empty()) {
      return absl::InvalidArgumentError(Concat("unexpected additional input data for model '",
                                               request_.model_name, "': ", tail.size(), " bytes"));
    }
    return absl::OkStatus();
  }

  const SharedMemoryRegions* const regions_;
  SharedInputs shared_inputs_{regions_};
  const std::shared_ptr<const PaddedBody> body_;
  const std::string_view head_;
  InferRequest& request_;
  OutputForms& binary_;
  std::shared_ptr<simdjson::ondemand::parser> parser_;
  JsonKeys keys_;
  std::set<std::string, std::less<>> input_names_;
  std::set<std::string, std::less<>> output_names_;
  std::vector<InputState> inputs_;
};

void FillRaw(const HttpInferInput& input, ParsedInfer& parsed) {
  InferRequest& request = *parsed.request;
  request.deduce_input = true;
  const std::string_view bytes = input.body->view();
  InputTensor tensor;
  tensor.data = std::as_bytes(std::span(bytes.data(), bytes.size()));
  request.inputs.push_back(std::move(tensor));
  parsed.binary.by_default = true;
}

}  // namespace

absl::StatusOr<std::size_t> ParseHeaderLength(std::optional<std::string_view> header_length,
                                              std::size_t body_bytes) {
  if (!header_length) return body_bytes;
  const std::optional<std::uint64_t> length = ParseInt<std::uint64_t>(*header_length);
  // An empty body with length 0 is a raw request of zero bytes; the model refuses it.
  if (length && *length <= body_bytes) return static_cast<std::size_t>(*length);
  return absl::InvalidArgumentError(Concat("inference header size should be in range (0, ",
                                           body_bytes, "), got: ", *header_length));
}

absl::StatusOr<ParsedInfer> ParseHttpInfer(const HttpInferInput& input) {
  SIGLIP_ASSIGN_OR_RETURN(const std::size_t head_bytes,
                          ParseHeaderLength(input.header_length, input.body->size()));
  ParsedInfer parsed;
  parsed.request = std::make_unique<InferRequest>();
  parsed.request->model_name = std::string(input.model_name);
  parsed.request->model_version = std::string(input.model_version);
  parsed.request->body = input.body;
  parsed.request->body_bytes = input.body->size();
  if (head_bytes == 0 && input.header_length) {
    FillRaw(input, parsed);
    return parsed;
  }
  InferParser parser(input, head_bytes, *parsed.request, parsed.binary);
  absl::Status status = parser.Parse();
  if (!status.ok()) {
    if (parsed.request->id.empty()) return status;
    return absl::Status(status.code(),
                        Concat("[request id: ", parsed.request->id, "] ", status.message()));
  }
  return parsed;
}

absl::StatusOr<bool> ParseIndexRequest(const PaddedBody& body) {
  std::optional<bool> ready;
  if (body.size() == 0) return false;
  simdjson::ondemand::parser parser;
  SIGLIP_RETURN_IF_ERROR(
      ForEachRootField(body.view(), parser, [&](std::string_view key, JsonValue v) -> absl::Status {
        if (key != "ready") return ValidateValue(v, 2);
        if (ready) return GivenTwice(key);
        SIGLIP_ASSIGN_OR_RETURN(ready, ReadBool(v, "ready"));
        return absl::OkStatus();
      }));
  return ready.value_or(false);
}

}  // namespace siglip
