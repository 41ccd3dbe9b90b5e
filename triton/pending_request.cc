#include "triton/pending_request.h"

#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "serving/validate.h"
#include "triton/abi_status.h"

namespace siglip::triton {
namespace {

// Both lists are in the protocol's order; Triton's has INVALID before it.
static_assert(static_cast<int>(DataType::kBool) + 1 == TRITONSERVER_TYPE_BOOL);
static_assert(static_cast<int>(DataType::kInt64) + 1 == TRITONSERVER_TYPE_INT64);
static_assert(static_cast<int>(DataType::kFp32) + 1 == TRITONSERVER_TYPE_FP32);
static_assert(static_cast<int>(DataType::kBytes) + 1 == TRITONSERVER_TYPE_BYTES);
static_assert(static_cast<int>(DataType::kBf16) + 1 == TRITONSERVER_TYPE_BF16);

absl::Status CheckReadable(const std::string& tensor, TRITONSERVER_MemoryType type,
                           std::int64_t device) {
  if (type != TRITONSERVER_MEMORY_GPU) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("'", tensor, "': expected CPU memory, got memory of GPU ", device));
}

// The input's bytes: Triton's own buffer if there is one, otherwise a copy, kept by `storage`.
absl::StatusOr<std::span<const std::byte>> ReadBytes(TRITONBACKEND_Input* triton_input,
                                                     const std::string& name,
                                                     std::uint64_t total_bytes,
                                                     std::uint32_t num_buffers,
                                                     std::shared_ptr<const void>& storage) {
  std::shared_ptr<AlignedBuffer<std::byte>> joined;
  if (num_buffers > 1) joined = std::make_shared<AlignedBuffer<std::byte>>(total_bytes);
  std::size_t at = 0;
  for (std::uint32_t i = 0; i < num_buffers; ++i) {
    const void* buffer = nullptr;
    std::uint64_t bytes = 0;
    TRITONSERVER_MemoryType memory_type = TRITONSERVER_MEMORY_CPU;
    std::int64_t device = 0;
    SIGLIP_RETURN_IF_ERROR(FromError(
        TRITONBACKEND_InputBuffer(triton_input, i, &buffer, &bytes, &memory_type, &device)));
    SIGLIP_RETURN_IF_ERROR(CheckReadable(name, memory_type, device));
    if (joined == nullptr) return std::span(static_cast<const std::byte*>(buffer), bytes);
    if (bytes > total_bytes - at) {
      return absl::InternalError(absl::StrCat("input '", name, "': expected ", total_bytes,
                                              " bytes, its buffers hold more"));
    }
    if (bytes > 0) std::memcpy(joined->data() + at, buffer, bytes);
    at += bytes;
  }
  if (joined == nullptr) return std::span<const std::byte>();
  const auto bytes = std::span<const std::byte>(joined->data(), at);
  storage = std::move(joined);
  return bytes;
}

// Elements of a BYTES tensor: each a uint32, little-endian, and as many bytes.
absl::Status Split(InputTensor& input) {
  std::span<const std::byte> rest = input.data;
  while (!rest.empty()) {
    std::uint32_t size = 0;
    if (rest.size() >= sizeof(size)) std::memcpy(&size, rest.data(), sizeof(size));
    if (rest.size() < sizeof(size) || size > rest.size() - sizeof(size)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "input '", input.name, "': element ", input.elements.size(), ": expected a length and ",
          size, " bytes, got ", rest.size(), " bytes in all"));
    }
    input.elements.emplace_back(reinterpret_cast<const char*>(rest.data()) + sizeof(size), size);
    rest = rest.subspan(sizeof(size) + size);
  }
  input.data = {};
  return absl::OkStatus();
}

absl::StatusOr<InputTensor> ReadInput(TRITONBACKEND_Input* triton_input) {
  const char* name = nullptr;
  TRITONSERVER_DataType type = TRITONSERVER_TYPE_INVALID;
  const std::int64_t* shape = nullptr;
  std::uint32_t num_dims = 0;
  std::uint64_t bytes = 0;
  std::uint32_t num_buffers = 0;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_InputProperties(triton_input, &name, &type, &shape,
                                                                 &num_dims, &bytes, &num_buffers)));
  InputTensor input;
  input.name = name;
  const auto known = FromTriton(type);
  if (!known) {
    return absl::InvalidArgumentError(absl::StrCat(
        "input '", input.name, "': expected a data type, got number ", static_cast<int>(type)));
  }
  input.datatype = *known;
  input.shape.assign(shape, shape + num_dims);
  SIGLIP_ASSIGN_OR_RETURN(input.data,
                          ReadBytes(triton_input, input.name, bytes, num_buffers, input.storage));
  if (input.datatype == DataType::kBytes) SIGLIP_RETURN_IF_ERROR(Split(input));
  return input;
}

absl::Status ReadParameters(TRITONBACKEND_Request* request, Parameters& parameters) {
  std::uint32_t count = 0;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_RequestParameterCount(request, &count)));
  for (std::uint32_t i = 0; i < count; ++i) {
    const char* key = nullptr;
    TRITONSERVER_ParameterType type = TRITONSERVER_PARAMETER_STRING;
    const void* value = nullptr;
    SIGLIP_RETURN_IF_ERROR(
        FromError(TRITONBACKEND_RequestParameter(request, i, &key, &type, &value)));
    switch (type) {
      case TRITONSERVER_PARAMETER_STRING:
        parameters[key] = std::string(static_cast<const char*>(value));
        break;
      case TRITONSERVER_PARAMETER_INT:
        parameters[key] = *static_cast<const std::int64_t*>(value);
        break;
      case TRITONSERVER_PARAMETER_BOOL:
        parameters[key] = *static_cast<const bool*>(value);
        break;
      case TRITONSERVER_PARAMETER_DOUBLE:
        parameters[key] = *static_cast<const double*>(value);
        break;
      default:  // bytes: no parameter of ours
        break;
    }
  }
  return absl::OkStatus();
}

absl::Status ReadRequestedOutputs(TRITONBACKEND_Request* request,
                                  std::vector<RequestedOutput>& outputs) {
  std::uint32_t count = 0;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_RequestOutputCount(request, &count)));
  for (std::uint32_t i = 0; i < count; ++i) {
    const char* name = nullptr;
    SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_RequestOutputName(request, i, &name)));
    outputs.push_back({.name = name});
  }
  return absl::OkStatus();
}

bool IsCancelled(TRITONBACKEND_Request* request) {
  bool cancelled = false;
  LogIfError("cancellation of a request", TRITONBACKEND_RequestIsCancelled(request, &cancelled));
  return cancelled;
}

absl::Status ReadAll(TRITONBACKEND_Request* triton_request, InferRequest& request) {
  if (IsCancelled(triton_request)) return absl::CancelledError("request was cancelled");
  SIGLIP_RETURN_IF_ERROR(FromError(
      TRITONBACKEND_InferenceRequestTimeoutMicroseconds(triton_request, &request.timeout_us)));
  SIGLIP_RETURN_IF_ERROR(ReadParameters(triton_request, request.parameters));
  SIGLIP_RETURN_IF_ERROR(ReadRequestedOutputs(triton_request, request.outputs));
  std::uint32_t num_inputs = 0;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_RequestInputCount(triton_request, &num_inputs)));
  for (std::uint32_t i = 0; i < num_inputs; ++i) {
    TRITONBACKEND_Input* input = nullptr;
    SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_RequestInputByIndex(triton_request, i, &input)));
    SIGLIP_ASSIGN_OR_RETURN(InputTensor tensor, ReadInput(input));
    request.inputs.push_back(std::move(tensor));
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<DataType> FromTriton(TRITONSERVER_DataType type) {
  if (type < TRITONSERVER_TYPE_BOOL || type > TRITONSERVER_TYPE_BF16) return std::nullopt;
  return static_cast<DataType>(type - 1);
}

TRITONSERVER_DataType ToTriton(DataType type) {
  return static_cast<TRITONSERVER_DataType>(static_cast<int>(type) + 1);
}

PendingRequest::PendingRequest(TRITONBACKEND_ModelInstance* instance,
                               TRITONBACKEND_Request* request) noexcept
    : instance_(instance), request_(request) {}

PendingRequest::PendingRequest(PendingRequest&& other) noexcept
    : instance_(other.instance_),
      request_(std::exchange(other.request_, nullptr)),
      response_(std::exchange(other.response_, nullptr)),
      copies_(std::move(other.copies_)) {}

PendingRequest::~PendingRequest() {
  if (finished()) return;
  const std::int64_t now_ns = SteadyNowNs();
  Finish(absl::InternalError("request was dropped without an answer"),
         {now_ns, now_ns, now_ns, now_ns});
}

absl::StatusOr<std::unique_ptr<InferRequest>> PendingRequest::Read(
    const ModelConfig& config) const {
  auto request = std::make_unique<InferRequest>();
  request->model_name = config.name;
  request->is_cancelled = [triton_request = request_] { return IsCancelled(triton_request); };
  const char* id = nullptr;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_RequestId(request_, &id)));
  if (id != nullptr) request->id = id;
  const absl::Status read = ReadAll(request_, *request);
  if (!read.ok()) return PrefixStatus(read, RequestPrefix(*request));
  SIGLIP_RETURN_IF_ERROR(ValidateRequest(config, *request));
  return request;
}

absl::StatusOr<std::span<std::byte>> PendingRequest::AddOutput(
    const std::string& name, DataType type, const std::vector<std::int64_t>& shape,
    std::size_t bytes) {
  if (response_ == nullptr) {
    SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_ResponseNew(&response_, request_)));
  }
  TRITONBACKEND_Output* output = nullptr;
  SIGLIP_RETURN_IF_ERROR(FromError(
      TRITONBACKEND_ResponseOutput(response_, &output, name.c_str(), ToTriton(type), shape.data(),
                                   static_cast<std::uint32_t>(shape.size()))));
  void* buffer = nullptr;
  TRITONSERVER_MemoryType memory_type = TRITONSERVER_MEMORY_CPU;
  std::int64_t device = 0;
  SIGLIP_RETURN_IF_ERROR(
      FromError(TRITONBACKEND_OutputBuffer(output, &buffer, bytes, &memory_type, &device)));
  SIGLIP_RETURN_IF_ERROR(CheckReadable(name, memory_type, device));
  if (reinterpret_cast<std::uintptr_t>(buffer) % DataTypeSizeBytes(type) == 0) {
    return std::span(static_cast<std::byte*>(buffer), bytes);
  }
  copies_.push_back({AlignedBuffer<std::byte>(bytes), buffer});
  return copies_.back().from.span();
}

void PendingRequest::CompleteOutputs() {
  for (const Copy& copy : copies_) {
    if (!copy.from.empty()) std::memcpy(copy.to, copy.from.data(), copy.from.size());
  }
  copies_.clear();
}

void PendingRequest::Finish(const absl::Status& status, const ExecutionTimes& times) {
  SIGLIP_CHECK(!finished());
  SIGLIP_CHECK(copies_.empty() || !status.ok());
  // Before the answer is sent: whoever has it finds it counted.
  LogIfError("statistics of a request",
             TRITONBACKEND_ModelInstanceReportStatistics(
                 instance_, request_, status.ok(), static_cast<std::uint64_t>(times.start_ns),
                 static_cast<std::uint64_t>(times.compute_start_ns),
                 static_cast<std::uint64_t>(times.compute_end_ns),
                 static_cast<std::uint64_t>(times.end_ns)));
  if (response_ == nullptr) {
    LogIfError("response of a request", TRITONBACKEND_ResponseNew(&response_, request_));
  }
  if (response_ != nullptr) {
    TRITONSERVER_Error* error = ToError(status);
    LogIfError("sending a response",
               TRITONBACKEND_ResponseSend(response_, TRITONSERVER_RESPONSE_COMPLETE_FINAL, error));
    if (error != nullptr) TRITONSERVER_ErrorDelete(error);
  }
  LogIfError("release of a request",
             TRITONBACKEND_RequestRelease(std::exchange(request_, nullptr),
                                          TRITONSERVER_REQUEST_RELEASE_ALL));
}

}  // namespace siglip::triton
