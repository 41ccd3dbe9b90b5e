#include "triton/core_models.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/aligned_buffer.h"
#include "base/checked_math.h"
#include "base/status_macros.h"
#include "triton/abi_status.h"
#include "triton/model_config_json.h"
#include "triton/pending_request.h"

namespace siglip::triton {
namespace {

constexpr std::int64_t kNewestVersion = -1;

// No memory for a text either may be left.
TRITONSERVER_Error* OutOfMemory(const char* tensor, std::size_t bytes) {
  try {
    return ToError(absl::ResourceExhaustedError(absl::StrCat(
        "output '", tensor, "': out of memory for ", bytes, " bytes of a model below")));
  } catch (const std::bad_alloc&) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, "out of memory");
  }
}

TRITONSERVER_Error* Allocate(TRITONSERVER_ResponseAllocator*, const char* tensor_name,
                             std::size_t byte_size, TRITONSERVER_MemoryType, std::int64_t, void*,
                             void** buffer, void** buffer_userp,
                             TRITONSERVER_MemoryType* actual_memory_type,
                             std::int64_t* actual_memory_type_id) {
  *buffer = byte_size == 0 ? nullptr : std::malloc(byte_size);
  *buffer_userp = nullptr;
  *actual_memory_type = TRITONSERVER_MEMORY_CPU;
  *actual_memory_type_id = 0;
  if (*buffer != nullptr || byte_size == 0) return nullptr;
  return OutOfMemory(tensor_name, byte_size);
}

TRITONSERVER_Error* Free(TRITONSERVER_ResponseAllocator*, void* buffer, void*, std::size_t,
                         TRITONSERVER_MemoryType, std::int64_t) {
  std::free(buffer);
  return nullptr;
}

struct InnerRequestDelete {
  void operator()(TRITONSERVER_InferenceRequest* inner) const {
    LogIfError("inner request", TRITONSERVER_InferenceRequestDelete(inner));
  }
};
using InnerRequest = std::unique_ptr<TRITONSERVER_InferenceRequest, InnerRequestDelete>;

// An inner request on its way. Owns itself: both of the core's callbacks, the response's and the
// release's, come once, on any threads and in any order, and the second one ends it.
class InnerCall {
 public:
  explicit InnerCall(std::unique_ptr<InferRequest> request) : request_(std::move(request)) {}

  // Either the core has the call afterwards, or it is ended with an error.
  static void Send(std::unique_ptr<InnerCall> call, TRITONSERVER_Server* server,
                   TRITONSERVER_ResponseAllocator* allocator, TRITONBACKEND_Request* outer) {
    InnerRequest inner;
    absl::Status status = call->Build(server, allocator, inner);
    if (status.ok()) {
      status = FromError(TRITONSERVER_ServerInferAsync(server, inner.get(), SpawnTrace(outer)));
    }
    if (!status.ok()) {
      Refuse(std::move(call->request_), status);
      return;
    }
    // Both may be gone by now.
    inner.release();
    call.release();
  }

 private:
  absl::Status Build(TRITONSERVER_Server* server, TRITONSERVER_ResponseAllocator* allocator,
                     InnerRequest& owner) {
    TRITONSERVER_InferenceRequest* inner = nullptr;
    SIGLIP_RETURN_IF_ERROR(FromError(TRITONSERVER_InferenceRequestNew(
        &inner, server, request_->model_name.c_str(), kNewestVersion)));
    owner.reset(inner);
    if (!request_->id.empty()) {
      SIGLIP_RETURN_IF_ERROR(
          FromError(TRITONSERVER_InferenceRequestSetId(inner, request_->id.c_str())));
    }
    SIGLIP_RETURN_IF_ERROR(FromError(
        TRITONSERVER_InferenceRequestSetTimeoutMicroseconds(inner, request_->timeout_us)));
    wires_.reserve(request_->inputs.size());
    for (const InputTensor& input : request_->inputs) {
      SIGLIP_RETURN_IF_ERROR(AddInput(input, inner));
    }
    SIGLIP_RETURN_IF_ERROR(FromError(
        TRITONSERVER_InferenceRequestSetReleaseCallback(inner, &InnerCall::OnRelease, this)));
    return FromError(TRITONSERVER_InferenceRequestSetResponseCallback(
        inner, allocator, nullptr, &InnerCall::OnResponse, this));
  }

  absl::Status AddInput(const InputTensor& input, TRITONSERVER_InferenceRequest* inner) {
    SIGLIP_RETURN_IF_ERROR(FromError(
        TRITONSERVER_InferenceRequestAddInput(inner, input.name.c_str(), ToTriton(input.datatype),
                                              input.shape.data(), input.shape.size())));
    std::span<const std::byte> bytes = input.data;
    if (input.datatype == DataType::kBytes) {
      wires_.push_back(Wire(input.elements));
      bytes = std::as_bytes(std::span(wires_.back()));
    }
    return FromError(TRITONSERVER_InferenceRequestAppendInputData(
        inner, input.name.c_str(), bytes.data(), bytes.size(), TRITONSERVER_MEMORY_CPU, 0));
  }

  // A BYTES tensor: before each element its length, uint32 little-endian.
  static std::string Wire(const std::vector<std::string_view>& elements) {
    std::size_t bytes = 0;
    for (const std::string_view element : elements) bytes += sizeof(std::uint32_t) + element.size();
    std::string wire;
    wire.reserve(bytes);
    for (const std::string_view element : elements) {
      const auto size = static_cast<std::uint32_t>(element.size());
      wire.append(reinterpret_cast<const char*>(&size), sizeof(size));
      wire.append(element);
    }
    return wire;
  }

  // nullptr if the outer request is not traced.
  static TRITONSERVER_InferenceTrace* SpawnTrace(TRITONBACKEND_Request* outer) {
    TRITONSERVER_InferenceTrace* trace = nullptr;
    TRITONSERVER_InferenceTrace* child = nullptr;
    // Unsupported where Triton was built without tracing.
    if (!FromError(TRITONBACKEND_RequestTrace(outer, &trace)).ok() || trace == nullptr) {
      return nullptr;
    }
    LogIfError("trace", TRITONSERVER_InferenceTraceSpawnChildTrace(trace, &child));
    return child;
  }

  static void OnRelease(TRITONSERVER_InferenceRequest* inner, const std::uint32_t, void* userp) {
    InnerRequestDelete()(inner);
    static_cast<InnerCall*>(userp)->Arrive();
  }

  static void OnResponse(TRITONSERVER_InferenceResponse* response, const std::uint32_t flags,
                         void* userp) {
    auto* call = static_cast<InnerCall*>(userp);
    if (response != nullptr) {
      call->ReadOrFail(response);
      LogIfError("inner response", TRITONSERVER_InferenceResponseDelete(response));
    }
    if ((flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0) call->Arrive();
  }

  void ReadOrFail(TRITONSERVER_InferenceResponse* response) {
    if (++num_responses_ > 1) {
      response_.status = absl::InternalError(
          absl::StrCat("model '", request_->model_name, "': expected one answer, got several"));
      return;
    }
    try {
      response_.status = Read(response);
    } catch (const std::bad_alloc&) {
      response_.status = absl::ResourceExhaustedError("out of memory for an answer");
    } catch (const std::exception& error) {
      response_.status = absl::InternalError(error.what());
    }
  }

  absl::Status Read(TRITONSERVER_InferenceResponse* response) {
    // tritonserver.h says that this error belongs to the response, but the core makes a new one for
    // each caller, and its own HTTP and gRPC doors delete it.
    SIGLIP_RETURN_IF_ERROR(FromError(TRITONSERVER_InferenceResponseError(response)));
    std::uint32_t count = 0;
    SIGLIP_RETURN_IF_ERROR(FromError(TRITONSERVER_InferenceResponseOutputCount(response, &count)));
    for (std::uint32_t i = 0; i < count; ++i) {
      SIGLIP_ASSIGN_OR_RETURN(OutputTensor output, ReadOutput(response, i));
      response_.outputs.push_back(std::move(output));
    }
    return absl::OkStatus();
  }

  static absl::StatusOr<OutputTensor> ReadOutput(TRITONSERVER_InferenceResponse* response,
                                                 std::uint32_t index) {
    const char* name = nullptr;
    TRITONSERVER_DataType type = TRITONSERVER_TYPE_INVALID;
    const std::int64_t* shape = nullptr;
    std::uint64_t num_dims = 0;
    const void* base = nullptr;
    std::size_t bytes = 0;
    TRITONSERVER_MemoryType memory_type = TRITONSERVER_MEMORY_CPU;
    std::int64_t memory_type_id = 0;
    void* userp = nullptr;
    SIGLIP_RETURN_IF_ERROR(FromError(TRITONSERVER_InferenceResponseOutput(
        response, index, &name, &type, &shape, &num_dims, &base, &bytes, &memory_type,
        &memory_type_id, &userp)));
    const auto known = FromTriton(type);
    if (!known) return absl::InternalError(absl::StrCat("output '", name, "' has no data type"));
    OutputTensor output;
    output.name = name;
    output.datatype = *known;
    output.shape.assign(shape, shape + num_dims);
    // Copied, so that nothing of the core's is held when the outer request is answered.
    auto copy = std::make_shared<AlignedBuffer<std::byte>>(bytes);
    if (bytes > 0) std::memcpy(copy->data(), base, bytes);
    output.data = copy->span();
    output.storage = std::move(copy);
    return output;
  }

  void Arrive() {
    // Acquire-release: the second one sees what the first one wrote.
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    const std::unique_ptr<InnerCall> self(this);
    // The core has called: no exception may reach it. Who waits for this answer is dropped then,
    // and so has an error.
    try {
      if (num_responses_ == 0) response_.status = absl::InternalError("no answer came");
      Answer(*request_, std::move(response_));
    } catch (const std::exception& error) {
      LogDropped(error.what());
    }
  }

  static void LogDropped(const char* error) noexcept {
    try {
      Log(TRITONSERVER_LOG_ERROR, absl::StrCat("answer of a model below: ", error));
    } catch (const std::bad_alloc&) {  // nor is there memory for the line
    }
  }

  std::unique_ptr<InferRequest> request_;
  std::vector<std::string> wires_;  // borrowed by the core until the release
  InferResponse response_;
  int num_responses_ = 0;
  std::atomic<int> pending_{2};
};

}  // namespace

void AllocatorDelete::operator()(TRITONSERVER_ResponseAllocator* allocator) const {
  LogIfError("response allocator", TRITONSERVER_ResponseAllocatorDelete(allocator));
}

absl::StatusOr<ResponseAllocator> MakeResponseAllocator() {
  TRITONSERVER_ResponseAllocator* allocator = nullptr;
  SIGLIP_RETURN_IF_ERROR(
      FromError(TRITONSERVER_ResponseAllocatorNew(&allocator, &Allocate, &Free, nullptr)));
  return ResponseAllocator(allocator);
}

absl::StatusOr<std::shared_ptr<const ModelConfig>> CoreModels::ReadyConfig(
    const std::string& name, const std::string& version) const {
  const std::int64_t number = ParseInt<std::int64_t>(version).value_or(kNewestVersion);
  bool ready = false;
  SIGLIP_RETURN_IF_ERROR(
      FromError(TRITONSERVER_ServerModelIsReady(server_, name.c_str(), number, &ready)));
  if (!ready) {
    return absl::UnavailableError(
        absl::StrCat("Request for unknown model: '", name, "' is not at ready state"));
  }
  TRITONSERVER_Message* message = nullptr;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONSERVER_ServerModelConfig(server_, name.c_str(), number,
                                                                  /*config_version=*/1, &message)));
  SIGLIP_ASSIGN_OR_RETURN(const std::string json, TakeJson(message));
  SIGLIP_ASSIGN_OR_RETURN(ModelConfig config, ParseModelConfigJson(json));
  return std::make_shared<const ModelConfig>(std::move(config));
}

void CoreModels::InferWithin(std::unique_ptr<InferRequest> request) {
  InnerCall::Send(std::make_unique<InnerCall>(std::move(request)), server_, allocator_, outer_);
}

}  // namespace siglip::triton
