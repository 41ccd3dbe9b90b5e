#include "server/grpc.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>

#include "absl/synchronization/mutex.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "protocol/control.h"
#include "protocol/messages.h"
#include "protocol/model_config.h"
#include "protocol/protobuf_log.h"
#include "protocol/text.h"
#include "server/grpc_call.h"
#include "server/grpc_health.h"
#include "server/grpc_infer.h"
#include "server/grpc_listener.h"
#include "server/grpc_message.h"
#include "server/grpc_tls.h"

#include "grpc_service.grpc.pb.h"

namespace siglip {
namespace {

using Context = grpc::CallbackServerContext;
using Reactor = grpc::ServerUnaryReactor;
using Bytes = grpc::ByteBuffer;
using Kserve = inference::GRPCInferenceService;

// How soon a certificate that was replaced on disk is taken up.
constexpr unsigned kTlsRefreshSeconds = 1;

// How long answers that gRPC has taken may be on their way to their clients. In a drain all that
// was accepted is accounted for, and then nobody waits for the rest of calls that never came whole.
constexpr std::chrono::milliseconds kLastWrites{250};

// From the end of a drain, when whoever waits for it is told, to the cancelling of what is left.
constexpr std::chrono::milliseconds kCancelDelay{100};

// The status to finish a call with; with OK goes `answer`.
grpc::Status Written(const absl::Status& status, const google::protobuf::Message& response,
                     Bytes& answer) {
  return status.ok() ? WriteMessage(response, answer) : ToGrpcStatus(status);
}

// The one answer of a load or an unload. Where that is dropped on its way, there was no memory.
class ControlAnswer {
 public:
  ControlAnswer(Bytes& answer, PendingCounter& pending) : owed_(pending), answer_(answer) {}
  ~ControlAnswer() {
    if (call_ != nullptr) call_->FinishControl(NoMemory());
  }
  ControlAnswer(const ControlAnswer&) = delete;
  ControlAnswer& operator=(const ControlAnswer&) = delete;

  void Of(OpenCall& call) { call_ = &call; }
  void Finish(const absl::Status& status, const google::protobuf::Message& response) {
    grpc::Status written = Written(status, response, answer_);
    std::exchange(call_, nullptr)->FinishControl(std::move(written));
  }

 private:
  // First, so the last to go: the door may end then.
  const PendingCounter::Entry owed_;
  Bytes& answer_;
  OpenCall* call_ = nullptr;  // until it is answered
};

// A service whose methods are taken raw, one after the other.
template <class Base, template <class> class... Methods>
struct Raw {
  using Service = Base;
};
template <class Base, template <class> class First, template <class> class... Others>
struct Raw<Base, First, Others...> {
  using Service = First<typename Raw<Base, Others...>::Service>;
};

using RawInferenceService =
    Raw<Kserve::Service, Kserve::WithRawCallbackMethod_ServerLive,
        Kserve::WithRawCallbackMethod_ServerReady, Kserve::WithRawCallbackMethod_ModelReady,
        Kserve::WithRawCallbackMethod_ServerMetadata, Kserve::WithRawCallbackMethod_ModelMetadata,
        Kserve::WithRawCallbackMethod_ModelInfer, Kserve::WithRawCallbackMethod_ModelStreamInfer,
        Kserve::WithRawCallbackMethod_ModelConfig, Kserve::WithRawCallbackMethod_ModelStatistics,
        Kserve::WithRawCallbackMethod_RepositoryIndex,
        Kserve::WithRawCallbackMethod_RepositoryModelLoad,
        Kserve::WithRawCallbackMethod_RepositoryModelUnload,
        Kserve::WithRawCallbackMethod_SystemSharedMemoryStatus,
        Kserve::WithRawCallbackMethod_SystemSharedMemoryRegister,
        Kserve::WithRawCallbackMethod_SystemSharedMemoryUnregister,
        Kserve::WithRawCallbackMethod_CudaSharedMemoryStatus,
        Kserve::WithRawCallbackMethod_CudaSharedMemoryRegister,
        Kserve::WithRawCallbackMethod_CudaSharedMemoryUnregister,
        Kserve::WithRawCallbackMethod_TraceSetting,
        Kserve::WithRawCallbackMethod_LogSettings>::Service;

class InferenceService final : public RawInferenceService {
 public:
  InferenceService(siglip::Service& service, DoorState& state, const ServerOptions& options,
                   OpenCalls& open)
      : service_(service),
        state_(state),
        door_{service, state, open, pending_, options.grpc_max_input_bytes} {}

  PendingCounter& pending() { return pending_; }
  StreamRegistry& streams() { return streams_; }

  Reactor* ServerLive(Context* context, const Bytes* bytes, Bytes* answer) override {
    return Run<inference::ServerLiveRequest, inference::ServerLiveResponse>(
        {context, bytes, answer}, Api::kHealth, [&](const auto&, auto& response) {
          response.set_live(service_.Live());
          return absl::OkStatus();
        });
  }

  Reactor* ServerReady(Context* context, const Bytes* bytes, Bytes* answer) override {
    return Run<inference::ServerReadyRequest, inference::ServerReadyResponse>(
        {context, bytes, answer}, Api::kHealth, [&](const auto&, auto& response) {
          response.set_ready(service_.Ready() && !state_.leaving.load());
          return absl::OkStatus();
        });
  }

  Reactor* ModelReady(Context* context, const Bytes* bytes, Bytes* answer) override {
    return Run<inference::ModelReadyRequest, inference::ModelReadyResponse>(
        {context, bytes, answer}, Api::kHealth, [&](const auto& request, auto& response) {
          const absl::Status ready = service_.ModelReady(request.name(), request.version());
          response.set_ready(ready.ok());
          return absl::IsInvalidArgument(ready) ? ready : absl::OkStatus();
        });
  }

  Reactor* ServerMetadata(Context* context, const Bytes* bytes, Bytes* answer) override {
    return Run<inference::ServerMetadataRequest, inference::ServerMetadataResponse>(
        {context, bytes, answer}, Api::kMetadata, [&](const auto&, auto& response) {
          response = ToProto(service_.Metadata());
          return absl::OkStatus();
        });
  }

  Reactor* ModelMetadata(Context* context, const Bytes* bytes, Bytes* answer) override {
    return Run<inference::ModelMetadataRequest, inference::ModelMetadataResponse>(
        {context, bytes, answer}, Api::kMetadata,
        [&](const auto& request, auto& response) -> absl::Status {
          SIGLIP_ASSIGN_OR_RETURN(const auto metadata,
                                  service_.GetModelMetadata(request.name(), request.version()));
          response = ToProto(metadata);
          return absl::OkStatus();
        });
  }

  Reactor* ModelInfer(Context* context, const Bytes* bytes, Bytes* answer) override {
    if (const absl::Status status = CheckAccess(*context, Api::kInference); !status.ok()) {
      return Finish({context, bytes, answer}, ToGrpcStatus(status));
    }
    return StartUnaryInfer(*context, *bytes, *answer, door_);
  }

  grpc::ServerBidiReactor<Bytes, Bytes>* ModelStreamInfer(Context* context) override {
    return StartStreamInfer(*context, door_, streams_, CheckAccess(*context, Api::kInference));
  }

  Reactor* ModelConfig(Context* context, const Bytes* bytes, Bytes* answer) override {
    return Run<inference::ModelConfigRequest, inference::ModelConfigResponse>(
        {context, bytes, answer}, Api::kModelConfig,
        [&](const auto& request, auto& response) -> absl::Status {
          SIGLIP_ASSIGN_OR_RETURN(const auto config,
                                  service_.GetModelConfig(request.name(), request.version()));
          *response.mutable_config() = ModelConfigToProto(*config);
          return absl::OkStatus();
        });
  }

  Reactor* ModelStatistics(Context* context, const Bytes* bytes, Bytes* answer) override {
    return Run<inference::ModelStatisticsRequest, inference::ModelStatisticsResponse>(
        {context, bytes, answer}, Api::kStatistics,
        [&](const auto& request, auto& response) -> absl::Status {
          SIGLIP_ASSIGN_OR_RETURN(const auto statistics,
                                  service_.GetStatistics(request.name(), request.version()));
          response = ToProto(statistics);
          return absl::OkStatus();
        });
  }

  Reactor* RepositoryIndex(Context* context, const Bytes* bytes, Bytes* answer) override {
    return Run<inference::RepositoryIndexRequest, inference::RepositoryIndexResponse>(
        {context, bytes, answer}, Api::kModelRepository, [&](const auto& request, auto& response) {
          if (!request.repository_name().empty()) return RepositoryNameRefused();
          response = ToProto(service_.RepositoryIndex(request.ready()));
          return absl::OkStatus();
        });
  }

  Reactor* RepositoryModelLoad(Context* context, const Bytes* bytes, Bytes* answer) override {
    inference::RepositoryModelLoadRequest request;
    absl::Status status = CheckAccess(*context, Api::kModelRepository);
    if (status.ok()) status = ReadMessage(*bytes, door_.max_message_bytes, request).status();
    if (status.ok() && !request.repository_name().empty()) status = RepositoryNameRefused();
    if (!status.ok()) return Finish({context, bytes, answer}, ToGrpcStatus(status));
    absl::StatusOr<LoadModelRequest> load = ToLoadRequest(request);
    if (!load.ok()) return Finish({context, bytes, answer}, ToGrpcStatus(load.status()));
    return Control<inference::RepositoryModelLoadResponse>(
        {context, bytes, answer},
        [&](auto done) { service_.LoadModel(*std::move(load), std::move(done)); });
  }

  Reactor* RepositoryModelUnload(Context* context, const Bytes* bytes, Bytes* answer) override {
    inference::RepositoryModelUnloadRequest request;
    absl::Status status = Read(*context, Api::kModelRepository, *bytes, request);
    if (status.ok() && !request.repository_name().empty()) status = RepositoryNameRefused();
    if (!status.ok()) return Finish({context, bytes, answer}, ToGrpcStatus(status));
    const absl::StatusOr<bool> dependents = UnloadsDependents(request);
    if (!dependents.ok()) {
      return Finish({context, bytes, answer}, ToGrpcStatus(dependents.status()));
    }
    return Control<inference::RepositoryModelUnloadResponse>(
        {context, bytes, answer}, [&](auto done) {
          service_.UnloadModel(request.model_name(), *dependents, std::move(done));
        });
  }

  Reactor* SystemSharedMemoryStatus(Context* context, const Bytes* bytes, Bytes* answer) override {
    return Run<inference::SystemSharedMemoryStatusRequest,
               inference::SystemSharedMemoryStatusResponse>(
        {context, bytes, answer}, Api::kSharedMemory,
        [&](const auto& request, auto& response) -> absl::Status {
          SIGLIP_ASSIGN_OR_RETURN(const auto regions,
                                  state_.regions.Status(SharedMemoryKind::kSystem, request.name()));
          for (const SharedMemoryRegion& region : regions) {
            auto& row = (*response.mutable_regions())[region.name];
            row.set_name(region.name);
            row.set_key(region.key);
            row.set_offset(region.offset);
            row.set_byte_size(region.byte_size);
          }
          return absl::OkStatus();
        });
  }

  Reactor* SystemSharedMemoryRegister(Context* context, const Bytes* bytes,
                                      Bytes* answer) override {
    return Run<inference::SystemSharedMemoryRegisterRequest,
               inference::SystemSharedMemoryRegisterResponse>(
        {context, bytes, answer}, Api::kSharedMemory, [&](const auto& request, auto&) {
          return state_.regions.Register({.name = request.name(),
                                          .key = request.key(),
                                          .offset = request.offset(),
                                          .byte_size = request.byte_size()});
        });
  }

  Reactor* SystemSharedMemoryUnregister(Context* context, const Bytes* bytes,
                                        Bytes* answer) override {
    return Run<inference::SystemSharedMemoryUnregisterRequest,
               inference::SystemSharedMemoryUnregisterResponse>(
        {context, bytes, answer}, Api::kSharedMemory, [&](const auto& request, auto&) {
          state_.regions.Unregister(SharedMemoryKind::kSystem, request.name());
          return absl::OkStatus();
        });
  }

  Reactor* CudaSharedMemoryStatus(Context* context, const Bytes* bytes, Bytes* answer) override {
    return Run<inference::CudaSharedMemoryStatusRequest, inference::CudaSharedMemoryStatusResponse>(
        {context, bytes, answer}, Api::kSharedMemory,
        [&](const auto& request, auto& response) -> absl::Status {
          SIGLIP_ASSIGN_OR_RETURN(const auto regions,
                                  state_.regions.Status(SharedMemoryKind::kCuda, request.name()));
          for (const SharedMemoryRegion& region : regions) {
            auto& row = (*response.mutable_regions())[region.name];
            row.set_name(region.name);
            row.set_device_id(static_cast<std::uint64_t>(region.device_id));
            row.set_byte_size(region.byte_size);
          }
          return absl::OkStatus();
        });
  }

  Reactor* CudaSharedMemoryRegister(Context* context, const Bytes* bytes, Bytes* answer) override {
    return Run<inference::CudaSharedMemoryRegisterRequest,
               inference::CudaSharedMemoryRegisterResponse>(
        {context, bytes, answer}, Api::kSharedMemory, [&](const auto& request, auto&) {
          const absl::Status status = state_.regions.Register({.name = request.name(),
                                                               .key = request.raw_handle(),
                                                               .byte_size = request.byte_size(),
                                                               .kind = SharedMemoryKind::kCuda,
                                                               .device_id = request.device_id()});
          // Triton's two doors have two codes for a server without a GPU.
          if (!absl::IsFailedPrecondition(status)) return status;
          return absl::UnimplementedError(status.message());
        });
  }

  Reactor* CudaSharedMemoryUnregister(Context* context, const Bytes* bytes,
                                      Bytes* answer) override {
    return Run<inference::CudaSharedMemoryUnregisterRequest,
               inference::CudaSharedMemoryUnregisterResponse>(
        {context, bytes, answer}, Api::kSharedMemory, [&](const auto& request, auto&) {
          state_.regions.Unregister(SharedMemoryKind::kCuda, request.name());
          return absl::OkStatus();
        });
  }

  Reactor* TraceSetting(Context* context, const Bytes* bytes, Bytes* answer) override {
    return Run<inference::TraceSettingRequest, inference::TraceSettingResponse>(
        {context, bytes, answer}, Api::kTrace,
        [&](const auto& request, auto& response) -> absl::Status {
          const std::string& model = request.model_name();
          SIGLIP_RETURN_IF_ERROR(CheckTracedModel(service_, model));
          SIGLIP_RETURN_IF_ERROR(state_.tracer->Update(model, ToTraceSettings(request)));
          response = TraceSettingsToProto(state_.tracer->Get(model));
          return absl::OkStatus();
        });
  }

  Reactor* LogSettings(Context* context, const Bytes* bytes, Bytes* answer) override {
    return Run<inference::LogSettingsRequest, inference::LogSettingsResponse>(
        {context, bytes, answer}, Api::kLogging,
        [&](const auto& request, auto& response) -> absl::Status {
          SIGLIP_ASSIGN_OR_RETURN(const siglip::LogSettings settings, ApplyLogSettings(request));
          response = LogSettingsToProto(settings);
          return absl::OkStatus();
        });
  }

 private:
  struct Call {
    Context* context;
    const Bytes* bytes;
    Bytes* answer;
  };

  // body(request, response) -> absl::Status, unless the part of the protocol is restricted.
  template <class Request, class Response, class Body>
  Reactor* Run(Call call, Api api, Body body) {
    Request request;
    Response response;
    absl::Status status = Read(*call.context, api, *call.bytes, request);
    if (status.ok()) status = body(request, response);
    return Finish(call, Written(status, response, *call.answer));
  }

  // begin(done), which calls `done` at the end of what it sets going.
  template <class Response, class Begin>
  Reactor* Control(Call call, Begin begin) {
    auto once = std::make_shared<ControlAnswer>(*call.answer, pending_);
    auto* open = new OpenCall(*call.context, *call.answer, door_.open);
    once->Of(*open);
    try {
      begin([once = std::move(once)](const absl::Status& status) {
        once->Finish(status, Response());
      });
    } catch (const std::bad_alloc&) {  // answered, as `once` has gone
    }
    return open;
  }

  Reactor* Finish(Call call, const grpc::Status& status) const {
    auto* open = new OpenCall(*call.context, *call.answer, door_.open);
    open->FinishControl(status);
    return open;
  }

  absl::Status Read(const Context& context, Api api, const Bytes& bytes,
                    google::protobuf::Message& request) const {
    SIGLIP_RETURN_IF_ERROR(CheckAccess(context, api));
    return ReadMessage(bytes, kMaxPlainMessageBytes, request).status();
  }

  absl::Status CheckAccess(const Context& context, Api api) const {
    return CheckGrpcAccess(context, api, state_);
  }

  siglip::Service& service_;
  DoorState& state_;
  PendingCounter pending_;
  StreamRegistry streams_;
  const InferDoor door_;
};

std::shared_ptr<grpc::ServerCredentials> MakeCredentials(const CheckedTlsFiles& files,
                                                         bool mutual) {
  namespace tls = grpc::experimental;
  auto provider = std::make_shared<tls::FileWatcherCertificateProvider>(
      files.identity_path(), files.identity_path(), files.root_path(), kTlsRefreshSeconds);
  tls::TlsServerCredentialsOptions options(provider);
  options.watch_identity_key_cert_pairs();
  if (!files.root_path().empty()) options.watch_root_certs();
  options.set_cert_request_type(mutual ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                       : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  return tls::TlsServerCredentials(options);
}

void SetKeepalive(const GrpcKeepalive& keepalive, grpc::ServerBuilder& builder) {
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, keepalive.time_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, keepalive.timeout_ms);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS,
                             int{keepalive.permit_without_calls});
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA,
                             keepalive.max_pings_without_data);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             keepalive.min_recv_ping_interval_without_data_ms);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, keepalive.max_ping_strikes);
  if (keepalive.max_connection_age_ms > 0) {
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, keepalive.max_connection_age_ms);
  }
  if (keepalive.max_connection_age_grace_ms > 0) {
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                               keepalive.max_connection_age_grace_ms);
  }
}

void SetLimits(const GrpcLimits& limits, grpc::ServerBuilder& builder) {
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, limits.concurrent_streams);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, limits.handshake_timeout_ms);
  if (limits.max_connection_idle_ms > 0) {
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, limits.max_connection_idle_ms);
  }
  builder.SetResourceQuota(grpc::ResourceQuota("siglip").Resize(limits.memory_quota_bytes));
}

}  // namespace

struct GrpcServer::Impl {
  Impl(siglip::Service& service, DoorState& state, const ServerOptions& options)
      : open(options.grpc_limits),
        inference(service, state, options, open),
        health(service, state, open) {
    shut.Add();
  }

  OpenCalls open;
  InferenceService inference;
  HealthService health;
  std::unique_ptr<CheckedTlsFiles> tls;  // null without TLS
  std::unique_ptr<grpc::Server> server;
  PendingCounter shut;                // zero once the server is, if WaitDrained was called
  std::vector<std::thread> shutdown;  // WaitDrained's
  std::unique_ptr<GrpcListener> listener;
};

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(Service& service, DoorState& state,
                                                              const ServerOptions& options) {
  auto impl = std::make_unique<Impl>(service, state, options);
  auto credentials = grpc::InsecureServerCredentials();
  if (options.grpc_tls.enabled) {
    SIGLIP_ASSIGN_OR_RETURN(impl->tls, CheckedTlsFiles::Open(options.grpc_tls));
    credentials = MakeCredentials(*impl->tls, options.grpc_tls.mutual);
  }
  grpc::ServerBuilder builder;
  SetKeepalive(options.grpc_keepalive, builder);
  builder.SetDefaultCompressionLevel(
      static_cast<grpc_compression_level>(options.grpc_compression_level));
  SetLimits(options.grpc_limits, builder);
  builder.SetMaxReceiveMessageSize(static_cast<int>(std::min<std::size_t>(
      options.grpc_max_input_bytes, std::numeric_limits<std::int32_t>::max())));
  builder.SetMaxSendMessageSize(std::numeric_limits<std::int32_t>::max());
  SIGLIP_ASSIGN_OR_RETURN(impl->listener, GrpcListener::Open(options));
  auto acceptor = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, credentials);
  builder.RegisterService(&impl->inference);
  builder.RegisterService(&impl->health);
  QuietProtobuf();
  // Debian's Abseil follows the order of all locks, for debugging: a graph at each lock of gRPC's.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  impl->server = builder.BuildAndStart();
  if (!impl->server) return absl::InternalError("grpc++ does not start its server");
  SIGLIP_RETURN_IF_ERROR(impl->listener->Start(std::move(acceptor)));
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(impl)));
}

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

GrpcServer::~GrpcServer() {
  impl_->listener->Stop();
  impl_->health.Drain();
  impl_->server->Shutdown(std::chrono::system_clock::now());  // nothing more after WaitDrained's
  for (std::thread& thread : impl_->shutdown) thread.join();
  while (!impl_->inference.pending().WaitZero(std::chrono::steady_clock::now() +
                                              std::chrono::hours(1))) {
  }
}

std::uint16_t GrpcServer::port() const { return impl_->listener->port(); }

void GrpcServer::BeginDrain() {
  impl_->inference.streams().DrainAll();
  impl_->health.Drain();
}

// Calls that the service answers in time end by themselves. Shutdown cancels the others, does not
// tell whether there were any, and then waits for them without end: so it has a thread of its own,
// and the answer is known before it cancels.
//
// It also waits for calls that have begun and whose message never comes to its end. grpc++ hands
// nobody a call before, so those are what is left when all others have ended, and were never
// accepted: their connections are closed, which clients see as UNAVAILABLE.
bool GrpcServer::WaitDrained(std::chrono::steady_clock::time_point deadline) {
  impl_->listener->Stop();
  const auto left = deadline - std::chrono::steady_clock::now();
  const auto cancel_at = std::chrono::system_clock::now() + left + kCancelDelay;
  const auto shut_down = [impl = impl_.get(), cancel_at](int) {
    impl->server->Shutdown(cancel_at);
    impl->shut.Remove();
  };
  if (!AddThreads(impl_->shutdown, 1, shut_down).ok()) shut_down(0);
  const auto shut_soon = [&] {
    return impl_->shut.WaitZero(std::min(deadline, std::chrono::steady_clock::now() + kLastWrites));
  };
  if (!shut_soon() && impl_->open.count.WaitZero(deadline) && !shut_soon()) {
    grpc_server_cancel_all_calls(impl_->server->c_server());
  }
  return impl_->shut.WaitZero(deadline) && impl_->inference.pending().WaitZero(deadline);
}

}  // namespace siglip
