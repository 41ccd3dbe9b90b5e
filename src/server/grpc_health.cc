#include "server/grpc_health.h"

#include <chrono>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "server/grpc_message.h"

namespace siglip {
namespace {

using Response = grpc::health::v1::HealthCheckResponse;

// How late a change may be told. Readiness is a few loads and a lock.
constexpr std::chrono::milliseconds kLookInterval{250};

grpc::Status Write(Response::ServingStatus status, grpc::ByteBuffer& answer) {
  Response response;
  response.set_status(status);
  return WriteMessage(response, answer);
}

}  // namespace

// Owned by itself until gRPC is done with it.
class HealthService::WatchCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                                       public std::enable_shared_from_this<WatchCall> {
 public:
  explicit WatchCall(HealthService& owner) : owner_(owner), open_(owner.open_.count) {}

  void Begin() { self_ = shared_from_this(); }

  // Told once per change; with `last` the call is ended after it.
  void Tell(Response::ServingStatus status, bool last) {
    {
      MutexLock lock(mu_);
      wanted_ = status;
      last_ = last_ || last;
    }
    Advance();
  }

  void Refuse(const grpc::Status& status) {
    {
      MutexLock lock(mu_);
      finished_ = true;
    }
    Finish(status);
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mu_);
      writing_ = false;
      if (!ok) last_ = true;
    }
    Advance();
  }

  void OnCancel() override {
    {
      MutexLock lock(mu_);
      last_ = true;
      wanted_ = told_;
    }
    Advance();
  }

  void OnDone() override {
    std::shared_ptr<WatchCall> self;
    MutexLock lock(owner_.mu_);
    owner_.calls_.erase(self_);
    self.swap(self_);
  }

 private:
  void Advance() {
    bool write = false;
    bool finish = false;
    {
      MutexLock lock(mu_);
      if (writing_ || finished_) return;
      if (wanted_ != told_) {
        write = writing_ = true;
        told_ = wanted_;
        static_cast<void>(Write(told_, answer_));
      } else if (last_) {
        finish = finished_ = true;
      }
    }
    if (write) StartWrite(&answer_);
    if (finish) Finish(grpc::Status::OK);
  }

  HealthService& owner_;
  const PendingCounter::Entry open_;
  std::shared_ptr<WatchCall> self_;
  Mutex mu_;
  grpc::ByteBuffer answer_;
  Response::ServingStatus wanted_ SIGLIP_GUARDED_BY(mu_) = Response::UNKNOWN;
  Response::ServingStatus told_ SIGLIP_GUARDED_BY(mu_) = Response::UNKNOWN;
  bool writing_ SIGLIP_GUARDED_BY(mu_) = false;
  bool last_ SIGLIP_GUARDED_BY(mu_) = false;
  bool finished_ SIGLIP_GUARDED_BY(mu_) = false;
};

HealthService::HealthService(siglip::Service& service, const DoorState& state, OpenCalls& open)
    : service_(service),
      state_(state),
      open_(open),
      follower_([this] { Repeat([this] { return FollowReadiness(); }); }) {}

HealthService::~HealthService() {
  Drain();
  follower_.join();
}

Response::ServingStatus HealthService::Status() const {
  return service_.Ready() && !state_.leaving.load() ? Response::SERVING : Response::NOT_SERVING;
}

absl::Status HealthService::Read(const grpc::CallbackServerContext& context,
                                 const grpc::ByteBuffer& bytes) const {
  SIGLIP_RETURN_IF_ERROR(CheckGrpcAccess(context, Api::kHealth, state_));
  grpc::health::v1::HealthCheckRequest request;
  return ReadMessage(bytes, kMaxPlainMessageBytes, request).status();
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const grpc::ByteBuffer* bytes,
                                               grpc::ByteBuffer* answer) {
  const absl::Status read = Read(*context, *bytes);
  const grpc::Status status = read.ok() ? Write(Status(), *answer) : ToGrpcStatus(read);
  auto* call = new OpenCall(*context, *answer, open_);
  call->FinishControl(status);
  return call;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* HealthService::Watch(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* bytes) {
  const auto call = std::make_shared<WatchCall>(*this);
  call->Begin();
  if (const absl::Status status = Read(*context, *bytes); !status.ok()) {
    call->Refuse(ToGrpcStatus(status));
    return call.get();
  }
  bool draining = false;
  {
    MutexLock lock(mu_);
    draining = draining_;
    if (!draining) calls_.insert(call);
  }
  call->Tell(draining ? Response::NOT_SERVING : Status(), draining);
  changed_.NotifyAll();
  return call.get();
}

void HealthService::Drain() {
  std::set<std::shared_ptr<WatchCall>> calls;
  {
    MutexLock lock(mu_);
    draining_ = true;
    calls = calls_;
  }
  changed_.NotifyAll();
  for (const auto& call : calls) call->Tell(Response::NOT_SERVING, true);
}

bool HealthService::FollowReadiness() {
  std::set<std::shared_ptr<WatchCall>> calls;
  {
    MutexLock lock(mu_);
    while (calls_.empty() && !draining_) changed_.Wait(mu_);
    if (!draining_) changed_.WaitFor(mu_, kLookInterval);
    if (draining_) return false;
    calls = calls_;
  }
  const Response::ServingStatus status = Status();
  for (const auto& call : calls) call->Tell(status, false);
  return true;
}

}  // namespace siglip
