#include "server/grpc.h"

#include <limits>

#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>

#include "base/status_macros.h"
#include "protocol/messages.h"
#include "protocol/model_config.h"
#include "protocol/text.h"
#include "server/grpc_infer.h"

#include "grpc_service.grpc.pb.h"
#include "health.grpc.pb.h"

namespace siglip {
namespace {

using Context = grpc::CallbackServerContext;
using Reactor = grpc::ServerUnaryReactor;

// HTTP/2 allows any number of streams unless told; each costs memory before a request is complete.
constexpr int kMaxConcurrentStreams = 1024;
// All that gRPC buffers together; beyond it connections are slowed down.
constexpr std::size_t kMemoryQuotaBytes = std::size_t{2} << 30;

Reactor* Finish(Context* context, const absl::Status& status = absl::OkStatus()) {
  Reactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

class InferenceService final : public inference::GRPCInferenceService::CallbackService {
 public:
  InferenceService(siglip::Service& service, const DoorState& state)
      : service_(service), state_(state) {
    SetMessageAllocatorFor_ModelInfer(&allocator_);
  }

  PendingCounter& pending() { return pending_; }
  StreamRegistry& streams() { return streams_; }

  Reactor* ServerLive(Context* context, const inference::ServerLiveRequest*,
                      inference::ServerLiveResponse* response) override {
    response->set_live(service_.Live());
    return Finish(context);
  }

  Reactor* ServerReady(Context* context, const inference::ServerReadyRequest*,
                       inference::ServerReadyResponse* response) override {
    response->set_ready(service_.Ready() && !state_.draining.load());
    return Finish(context);
  }

  Reactor* ModelReady(Context* context, const inference::ModelReadyRequest* request,
                      inference::ModelReadyResponse* response) override {
    const absl::Status status = service_.ModelReady(request->name(), request->version());
    response->set_ready(status.ok());
    // A model that is known but not ready is an answer, not an error.
    return Finish(context, absl::IsUnavailable(status) ? absl::OkStatus() : status);
  }

  Reactor* ServerMetadata(Context* context, const inference::ServerMetadataRequest*,
                          inference::ServerMetadataResponse* response) override {
    *response = ToProto(service_.Metadata());
    return Finish(context);
  }

  Reactor* ModelMetadata(Context* context, const inference::ModelMetadataRequest* request,
                         inference::ModelMetadataResponse* response) override {
    const auto metadata = service_.GetModelMetadata(request->name(), request->version());
    if (metadata.ok()) *response = ToProto(*metadata);
    return Finish(context, metadata.status());
  }

  Reactor* ModelInfer(Context* context, const inference::ModelInferRequest*,
                      inference::ModelInferResponse*) override {
    return StartUnaryInfer(context, service_, pending_);
  }

  grpc::ServerBidiReactor<inference::ModelInferRequest, inference::ModelStreamInferResponse>*
  ModelStreamInfer(Context*) override {
    return StartStreamInfer(service_, state_, pending_, streams_);
  }

  Reactor* ModelConfig(Context* context, const inference::ModelConfigRequest* request,
                       inference::ModelConfigResponse* response) override {
    const auto config = service_.GetModelConfig(request->name(), request->version());
    if (config.ok()) *response->mutable_config() = ModelConfigToProto(**config);
    return Finish(context, config.status());
  }

  Reactor* ModelStatistics(Context* context, const inference::ModelStatisticsRequest* request,
                           inference::ModelStatisticsResponse* response) override {
    const auto statistics = service_.GetStatistics(request->name(), request->version());
    if (statistics.ok()) *response = ToProto(*statistics);
    return Finish(context, statistics.status());
  }

  Reactor* RepositoryIndex(Context* context, const inference::RepositoryIndexRequest* request,
                           inference::RepositoryIndexResponse* response) override {
    if (!request->repository_name().empty()) return Finish(context, RepositoryNameRefused());
    *response = ToProto(service_.RepositoryIndex(request->ready()));
    return Finish(context);
  }

  Reactor* RepositoryModelLoad(Context* context, const inference::RepositoryModelLoadRequest*,
                               inference::RepositoryModelLoadResponse*) override {
    return Finish(context, LoadUnloadRefused());
  }

  Reactor* RepositoryModelUnload(Context* context, const inference::RepositoryModelUnloadRequest*,
                                 inference::RepositoryModelUnloadResponse*) override {
    return Finish(context, LoadUnloadRefused());
  }

  Reactor* SystemSharedMemoryStatus(Context* context,
                                    const inference::SystemSharedMemoryStatusRequest* request,
                                    inference::SystemSharedMemoryStatusResponse*) override {
    return Finish(context, RegionStatus(request->name()));
  }

  Reactor* SystemSharedMemoryRegister(Context* context,
                                      const inference::SystemSharedMemoryRegisterRequest*,
                                      inference::SystemSharedMemoryRegisterResponse*) override {
    return Finish(context, SharedMemoryRefused());
  }

  Reactor* SystemSharedMemoryUnregister(Context* context,
                                        const inference::SystemSharedMemoryUnregisterRequest*,
                                        inference::SystemSharedMemoryUnregisterResponse*) override {
    return Finish(context);
  }

  Reactor* CudaSharedMemoryStatus(Context* context,
                                  const inference::CudaSharedMemoryStatusRequest* request,
                                  inference::CudaSharedMemoryStatusResponse*) override {
    return Finish(context, RegionStatus(request->name()));
  }

  Reactor* CudaSharedMemoryRegister(Context* context,
                                    const inference::CudaSharedMemoryRegisterRequest*,
                                    inference::CudaSharedMemoryRegisterResponse*) override {
    return Finish(context, SharedMemoryRefused());
  }

  Reactor* CudaSharedMemoryUnregister(Context* context,
                                      const inference::CudaSharedMemoryUnregisterRequest*,
                                      inference::CudaSharedMemoryUnregisterResponse*) override {
    return Finish(context);
  }

  Reactor* TraceSetting(Context* context, const inference::TraceSettingRequest* request,
                        inference::TraceSettingResponse* response) override {
    if (!request->settings().empty()) return Finish(context, SettingsRefused("trace"));
    *response = TraceSettings();
    return Finish(context);
  }

  Reactor* LogSettings(Context* context, const inference::LogSettingsRequest* request,
                       inference::LogSettingsResponse* response) override {
    if (!request->settings().empty()) return Finish(context, SettingsRefused("log"));
    *response = siglip::LogSettings();
    return Finish(context);
  }

 private:
  static absl::Status RegionStatus(const std::string& name) {
    if (name.empty()) return absl::OkStatus();
    return absl::NotFoundError(Concat("Unable to find shared memory region: '", name, "'"));
  }

  siglip::Service& service_;
  const DoorState& state_;
  InferAllocator allocator_;
  PendingCounter pending_;
  StreamRegistry streams_;
};

class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  HealthService(siglip::Service& service, const DoorState& state)
      : service_(service), state_(state) {}

  Reactor* Check(Context* context, const grpc::health::v1::HealthCheckRequest*,
                 grpc::health::v1::HealthCheckResponse* response) override {
    const bool ready = service_.Ready() && !state_.draining.load();
    response->set_status(ready ? grpc::health::v1::HealthCheckResponse::SERVING
                               : grpc::health::v1::HealthCheckResponse::NOT_SERVING);
    return Finish(context);
  }

 private:
  siglip::Service& service_;
  const DoorState& state_;
};

}  // namespace

struct GrpcServer::Impl {
  Impl(siglip::Service& service, const DoorState& state)
      : inference(service, state), health(service, state) {}

  InferenceService inference;
  HealthService health;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
};

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(Service& service,
                                                              const DoorState& state,
                                                              const ServerOptions& options) {
  auto impl = std::make_unique<Impl>(service, state);
  grpc::ServerBuilder builder;
  // Without this, two servers on one port both start and share its connections.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxConcurrentStreams);
  builder.SetResourceQuota(grpc::ResourceQuota("siglip").Resize(kMemoryQuotaBytes));
  builder.SetMaxReceiveMessageSize(static_cast<int>(std::min<std::size_t>(
      options.grpc_max_input_bytes, std::numeric_limits<std::int32_t>::max())));
  builder.SetMaxSendMessageSize(std::numeric_limits<std::int32_t>::max());
  builder.AddListeningPort(Concat(options.grpc_address, ":", options.grpc_port),
                           grpc::InsecureServerCredentials(), &impl->port);
  builder.RegisterService(&impl->inference);
  builder.RegisterService(&impl->health);
  impl->server = builder.BuildAndStart();
  if (!impl->server || impl->port == 0) {
    return absl::UnavailableError(
        Concat("cannot listen on grpc port ", options.grpc_port, " of ", options.grpc_address,
               ": the port is in use or the address is not this machine's"));
  }
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(impl)));
}

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

GrpcServer::~GrpcServer() {
  impl_->server->Shutdown(std::chrono::system_clock::now());
  while (!impl_->inference.pending().WaitZero(std::chrono::steady_clock::now() +
                                              std::chrono::hours(1))) {
  }
}

std::uint16_t GrpcServer::port() const { return static_cast<std::uint16_t>(impl_->port); }

void GrpcServer::BeginDrain() { impl_->inference.streams().DrainAll(); }

bool GrpcServer::WaitDrained(std::chrono::steady_clock::time_point deadline) {
  const auto left = deadline - std::chrono::steady_clock::now();
  // Calls that the service answers in time end by themselves; Shutdown cancels the others at
  // `deadline`.
  impl_->server->Shutdown(std::chrono::system_clock::now() + left);
  return impl_->inference.pending().WaitZero(deadline);
}

}  // namespace siglip
