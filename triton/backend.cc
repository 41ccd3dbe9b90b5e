#include "triton/backend.h"

#include <algorithm>
#include <exception>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/checked_math.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "serving/batch.h"
#include "serving/config_check.h"
#include "serving/validate.h"
#include "serving/warmup.h"
#include "triton/abi_status.h"
#include "triton/model_config_json.h"
#include "triton/options.h"
#include "triton/pending_request.h"

namespace siglip::triton {
namespace {

// Of the newest function that we call, TRITONBACKEND_InferenceRequestTimeoutMicroseconds
// (Triton 24.01).
constexpr std::uint32_t kMajor = 1;
constexpr std::uint32_t kLeastMinor = 17;

absl::Status CheckVersion() {
  std::uint32_t major = 0;
  std::uint32_t minor = 0;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_ApiVersion(&major, &minor)));
  if (major == kMajor && minor >= kLeastMinor) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("Triton's backend API: expected ", kMajor, ".",
                                               kLeastMinor, " or a later ", kMajor, ".x, got ",
                                               major, ".", minor));
}

// The configuration as JSON, and as a struct with what JSON does not say.
absl::StatusOr<ModelConfig> ReadConfig(TRITONBACKEND_Model* model, std::string& json) {
  TRITONSERVER_Message* message = nullptr;
  SIGLIP_RETURN_IF_ERROR(
      FromError(TRITONBACKEND_ModelConfig(model, /*config_version=*/1, &message)));
  SIGLIP_ASSIGN_OR_RETURN(json, TakeJson(message));
  SIGLIP_ASSIGN_OR_RETURN(ModelConfig config, ParseModelConfigJson(json));
  TRITONBACKEND_ArtifactType artifact_type = TRITONBACKEND_ARTIFACT_FILESYSTEM;
  const char* location = nullptr;
  SIGLIP_RETURN_IF_ERROR(
      FromError(TRITONBACKEND_ModelRepository(model, &artifact_type, &location)));
  std::uint64_t version = 0;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_ModelVersion(model, &version)));
  config.directory = location;
  config.source = absl::StrCat(config.directory, "/config.pbtxt");
  config.versions = {static_cast<std::int64_t>(version)};
  SIGLIP_RETURN_IF_ERROR(CheckOwnFields(json, config));
  return config;
}

absl::Status CheckStep(const BackendKind& kind, const ModelConfig& config) {
  const auto step = config.parameters.find("step");
  if (step == config.parameters.end()) return absl::OkStatus();  // the factory's error is better
  if (step->second.starts_with("embed_") == kind.doors) return absl::OkStatus();
  return ConfigError(config, "backend",
                     absl::StrCat("expected '", kind.other, "' for the step '", step->second,
                                  "', got '", kind.name, "'"));
}

// Tells the core the dims that the configuration left out, unless it was told to leave
// configurations as they are.
absl::Status CompleteCoreConfig(TRITONBACKEND_Model* model, const std::string& json,
                                const ModelConfig& config) {
  bool auto_complete = false;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_ModelAutoCompleteConfig(model, &auto_complete)));
  if (!auto_complete) return absl::OkStatus();
  const std::string completed = WithDims(json, config);
  TRITONSERVER_Message* message = nullptr;
  SIGLIP_RETURN_IF_ERROR(FromError(
      TRITONSERVER_MessageNewFromSerializedJson(&message, completed.data(), completed.size())));
  const absl::Status status =
      FromError(TRITONBACKEND_ModelSetConfig(model, /*config_version=*/1, message));
  LogIfError("model configuration", TRITONSERVER_MessageDelete(message));
  return status;
}

// A request of a batch that runs.
struct Running {
  PendingRequest* pending = nullptr;
  std::unique_ptr<InferRequest> request;
  std::vector<AlignedBuffer<std::byte>>
      aligned_copies;  // of inputs that Triton has at odd addresses
  std::vector<AlignedBuffer<std::byte>> unasked_outputs;
  std::vector<Item> items;  // borrow from all of the above
};

void AlignInputs(Running& running) {
  for (InputTensor& input : running.request->inputs) {
    const std::size_t alignment = DataTypeSizeBytes(input.datatype);
    const auto address = reinterpret_cast<std::uintptr_t>(input.data.data());
    if (alignment <= 1 || address % alignment == 0) continue;
    AlignedBuffer<std::byte> copy(input.data.size());
    std::copy(input.data.begin(), input.data.end(), copy.data());
    input.data = copy.span();
    running.aligned_copies.push_back(std::move(copy));
  }
}

bool IsAskedFor(const std::string& output, const InferRequest& request) {
  return std::any_of(request.outputs.begin(), request.outputs.end(),
                     [&](const RequestedOutput& wanted) { return wanted.name == output; });
}

// Where an output is written: into the answer, or, if nobody asked for it, beside it: a step writes
// all that it has.
absl::StatusOr<std::span<std::byte>> AddOutput(const TensorConfig& tensor,
                                               const std::vector<std::int64_t>& shape,
                                               std::size_t bytes, Running& running) {
  if (IsAskedFor(tensor.name, *running.request)) {
    return running.pending->AddOutput(tensor.name, tensor.datatype, shape, bytes);
  }
  return running.unasked_outputs.emplace_back(bytes).span();
}

absl::Status AddOutputs(const ModelConfig& config, Running& running) {
  const std::size_t rows = running.items.size();
  for (const TensorConfig& tensor : config.outputs) {
    std::vector<std::int64_t> shape = tensor.dims;
    if (config.max_batch_size > 0) shape.insert(shape.begin(), static_cast<std::int64_t>(rows));
    const std::size_t row = static_cast<std::size_t>(ElementCount(tensor.dims).value_or(0)) *
                            DataTypeSizeBytes(tensor.datatype);
    SIGLIP_ASSIGN_OR_RETURN(const std::span<std::byte> block,
                            AddOutput(tensor, shape, row * rows, running));
    for (std::size_t r = 0; r < rows; ++r) {
      running.items[r].outputs.push_back(block.subspan(r * row, row));
    }
  }
  return absl::OkStatus();
}

absl::Status Prepare(const ModelConfig& config, Running& running) {
  SIGLIP_ASSIGN_OR_RETURN(running.request, running.pending->Read(config));
  AlignInputs(running);
  running.items = MakeItems(config, *running.request);
  return PrefixStatus(AddOutputs(config, running), RequestPrefix(*running.request));
}

// Prepares each request; those that cannot be are answered here.
std::vector<Running> PrepareAll(const ModelConfig& config, std::vector<PendingRequest>& batch,
                                std::int64_t start_ns) {
  std::vector<Running> prepared;
  for (PendingRequest& pending : batch) {
    Running running;
    running.pending = &pending;
    const absl::Status status = Prepare(config, running);
    if (status.ok()) {
      prepared.push_back(std::move(running));
    } else {
      const std::int64_t now_ns = SteadyNowNs();
      pending.Finish(status, {start_ns, now_ns, now_ns, now_ns});
    }
  }
  return prepared;
}

void ReportBatch(TRITONBACKEND_ModelInstance* instance, std::size_t rows,
                 const ExecutionTimes& times) {
  LogIfError("statistics of a batch",
             TRITONBACKEND_ModelInstanceReportBatchStatistics(
                 instance, rows, static_cast<std::uint64_t>(times.start_ns),
                 static_cast<std::uint64_t>(times.compute_start_ns),
                 static_cast<std::uint64_t>(times.compute_end_ns),
                 static_cast<std::uint64_t>(times.end_ns)));
}

void RunStep(const ModelConfig& config, Step& step, TRITONBACKEND_ModelInstance* instance,
             std::vector<PendingRequest>& batch) {
  ExecutionTimes times;
  times.start_ns = SteadyNowNs();
  std::vector<Running> prepared = PrepareAll(config, batch, times.start_ns);
  std::vector<Item*> items;
  for (Running& running : prepared) {
    for (Item& item : running.items) items.push_back(&item);
  }
  if (items.empty()) return;
  times.compute_start_ns = SteadyNowNs();
  const absl::Status status = step.Run(items);
  times.compute_end_ns = SteadyNowNs();
  for (Running& running : prepared) running.pending->CompleteOutputs();
  times.end_ns = SteadyNowNs();
  // The last Finish may be the end of the instance.
  if (status.ok()) ReportBatch(instance, items.size(), times);
  for (Running& running : prepared) {
    const absl::Status own = status.ok() ? JoinItemErrors(running.items) : status;
    running.pending->Finish(PrefixStatus(own, RequestPrefix(*running.request)), times);
  }
}

// An error now would have Triton answer and release them once more.
void FinishRest(std::vector<PendingRequest>& batch, const absl::Status& status) {
  const std::int64_t now_ns = SteadyNowNs();
  for (PendingRequest& pending : batch) {
    if (!pending.finished()) pending.Finish(status, {now_ns, now_ns, now_ns, now_ns});
  }
}

// Writes a door's answer.
absl::Status WriteOutputs(const InferResponse& response, PendingRequest& pending) {
  for (const OutputTensor& output : response.outputs) {
    SIGLIP_ASSIGN_OR_RETURN(
        const std::span<std::byte> block,
        pending.AddOutput(output.name, output.datatype, output.shape, output.data.size()));
    std::copy(output.data.begin(), output.data.end(), block.begin());
  }
  pending.CompleteOutputs();
  return absl::OkStatus();
}

// A door's answer, on a thread of the core's: no exception may leave.
void AnswerOuter(TRITONBACKEND_ModelInstance* instance, std::size_t rows, std::int64_t start_ns,
                 const InferResponse& response, PendingRequest& pending) {
  absl::Status status = response.status;
  if (status.ok()) {
    try {
      status = WriteOutputs(response, pending);
    } catch (const std::bad_alloc&) {
      status = absl::ResourceExhaustedError("out of memory for the answer");
    } catch (const std::exception& error) {
      status = absl::InternalError(error.what());
    }
  }
  ExecutionTimes times{.start_ns = start_ns};
  times.compute_start_ns = start_ns + static_cast<std::int64_t>(response.durations.input_ns);
  times.compute_end_ns =
      times.compute_start_ns + static_cast<std::int64_t>(response.durations.infer_ns);
  times.end_ns = SteadyNowNs();
  if (status.ok()) ReportBatch(instance, rows, times);
  pending.Finish(status, times);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> Backend::Create(const BackendKind& kind,
                                                         TRITONBACKEND_Backend* backend) {
  SIGLIP_RETURN_IF_ERROR(CheckVersion());
  TRITONSERVER_Message* message = nullptr;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_BackendConfig(backend, &message)));
  SIGLIP_ASSIGN_OR_RETURN(const std::string json, JsonOf(message));
  SIGLIP_ASSIGN_OR_RETURN(DeploymentsOptions options, ParseBackendConfig(json));
  options.open = kind.open;
  SIGLIP_ASSIGN_OR_RETURN(ResponseAllocator allocator, MakeResponseAllocator());
  return std::unique_ptr<Backend>(new Backend(kind, std::move(options), std::move(allocator)));
}

absl::StatusOr<Deployment> Backend::Make(ModelConfig& config) {
  MutexLock lock(mu_);
  return factory_.Make(config);
}

absl::StatusOr<std::unique_ptr<LoadedDeployment>> LoadedDeployment::Create(
    Backend& backend, TRITONBACKEND_Model* model) {
  std::string json;
  SIGLIP_ASSIGN_OR_RETURN(ModelConfig config, ReadConfig(model, json));
  SIGLIP_RETURN_IF_ERROR(CheckConfig(config));
  SIGLIP_RETURN_IF_ERROR(CheckBackend(config));
  SIGLIP_RETURN_IF_ERROR(CheckStep(backend.kind(), config));
  SIGLIP_ASSIGN_OR_RETURN(Deployment deployment, backend.Make(config));
  SIGLIP_RETURN_IF_ERROR(CheckCompleted(config, deployment));
  SIGLIP_RETURN_IF_ERROR(CompleteCoreConfig(model, json, config));
  if (deployment.step != nullptr && !HasWarmup(json)) {
    SIGLIP_RETURN_IF_ERROR(WarmUp(config, *deployment.step));
  }
  TRITONSERVER_Server* server = nullptr;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_ModelServer(model, &server)));
  return std::unique_ptr<LoadedDeployment>(
      new LoadedDeployment(backend, std::move(config), std::move(deployment), server));
}

void LoadedDeployment::Forward(TRITONBACKEND_ModelInstance* instance,
                               TRITONBACKEND_Request* request, PendingRequest owner) {
  const std::int64_t start_ns = SteadyNowNs();
  auto pending = std::make_shared<PendingRequest>(std::move(owner));
  auto outer = pending->Read(config_);
  if (!outer.ok()) {
    const std::int64_t now_ns = SteadyNowNs();
    pending->Finish(outer.status(), {start_ns, now_ns, now_ns, now_ns});
    return;
  }
  const auto rows = static_cast<std::size_t>(BatchSize(config_, **outer));
  (*outer)->done = [instance, pending, start_ns, rows](const InferResponse& response) {
    AnswerOuter(instance, rows, start_ns, response, *pending);
  };
  const auto models = std::make_shared<CoreModels>(server_, backend_.allocator(), request);
  (*outer)->models = models;
  deployment_.forwarder->Forward(*std::move(outer), *models);
}

absl::Status LoadedDeployment::Execute(TRITONBACKEND_ModelInstance* instance,
                                       TRITONBACKEND_Request** requests,
                                       std::uint32_t num_requests) {
  std::vector<PendingRequest> batch;
  batch.reserve(num_requests);  // if this throws, Triton still has them all
  for (std::uint32_t i = 0; i < num_requests; ++i) batch.emplace_back(instance, requests[i]);
  try {
    if (deployment_.step != nullptr) {
      RunStep(config_, *deployment_.step, instance, batch);
    } else {
      for (std::uint32_t i = 0; i < num_requests; ++i) {
        Forward(instance, requests[i], std::move(batch[i]));
      }
    }
  } catch (const std::bad_alloc&) {
    FinishRest(batch, absl::ResourceExhaustedError("out of memory"));
  } catch (const std::exception& error) {
    FinishRest(batch, absl::InternalError(error.what()));
  }
  return absl::OkStatus();
}

}  // namespace siglip::triton
