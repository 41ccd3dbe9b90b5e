#include "server/grpc_infer.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/status_macros.h"
#include "protocol/kserve_grpc.h"
#include "protocol/text.h"
#include "server/grpc_answer.h"
#include "server/grpc_message.h"
#include "serving/overload.h"

namespace siglip {
namespace {

// Requests of one stream that may be under way; further ones stay in the client's flow control.
constexpr std::size_t kMaxStreamRequests = 256;

// A request's message and what lies in it, alive as long as the inference needs them.
struct RequestMessage {
  google::protobuf::Arena arena;
  inference::ModelInferRequest& message =
      *google::protobuf::Arena::CreateMessage<inference::ModelInferRequest>(&arena);
};

// `request` is filled as far as the bytes allow.
absl::StatusOr<ParsedGrpcInfer> Parse(const grpc::ByteBuffer& bytes, const InferDoor& door,
                                      const std::shared_ptr<RequestMessage>& request) {
  try {
    SIGLIP_ASSIGN_OR_RETURN(const std::size_t held_bytes,
                            ReadMessage(bytes, door.max_message_bytes, request->message));
    // Told before anything that is wrong with the request.
    const inference::ModelInferRequest& message = request->message;
    SIGLIP_RETURN_IF_ERROR(
        door.service.GetModelConfig(message.model_name(), message.model_version()).status());
    SIGLIP_ASSIGN_OR_RETURN(ParsedGrpcInfer parsed,
                            ParseGrpcInfer(message, request, &door.state.regions));
    parsed.request->body_bytes = held_bytes;
    return parsed;
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory for the request");
  }
}

// Calls `answer`, which does not throw, exactly once: with the response, or with an error if the
// request is dropped.
class AnswerOnce {
 public:
  AnswerOnce(std::function<void(InferResponse)> answer, PendingCounter& pending)
      : owed_(pending), answer_(std::move(answer)) {}
  ~AnswerOnce() {
    if (answered_.load()) return;
    InferResponse dropped;
    try {
      dropped.status = absl::InternalError("the request was dropped");
    } catch (const std::bad_alloc&) {
      dropped.status = absl::Status(absl::StatusCode::kUnavailable, "");
    }
    Answer(std::move(dropped));
  }
  AnswerOnce(const AnswerOnce&) = delete;
  AnswerOnce& operator=(const AnswerOnce&) = delete;

  void Answer(InferResponse response) {
    if (!answered_.exchange(true)) answer_(std::move(response));
  }

 private:
  // First, so the last to go: the door may end then, with what `answer_` holds of it.
  const PendingCounter::Entry owed_;
  const std::function<void(InferResponse)> answer_;
  std::atomic<bool> answered_{false};
};

// What requests inherit from the call that they came in.
struct CallFacts {
  Parameters forwarded;            // headers that the operator wants the models to see
  std::int64_t client_end_ns = 0;  // as InferRequest's
};

std::int64_t DeadlineNs(const grpc::CallbackServerContext& context) {
  // Of what is further away nobody waits for the end; also keeps nanoseconds within 64 bits.
  constexpr auto kFar = std::chrono::hours(24 * 365);
  const auto deadline = context.deadline();
  const auto now = std::chrono::system_clock::now();
  if (deadline > now + kFar) return 0;
  const auto left = std::max(deadline - now, std::chrono::system_clock::duration::zero());
  return SteadyNowNs() + std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
}

// Whether the first error of a model ends the stream with its status, instead of being an answer.
bool WantsGrpcErrors(const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find("triton_grpc_error");
  return found != context.client_metadata().end() && found->second == "true";
}

CallFacts FactsOf(const grpc::CallbackServerContext& context, const DoorState& state) {
  CallFacts facts{.forwarded = {}, .client_end_ns = DeadlineNs(context)};
  if (state.grpc_forwarding.empty()) return facts;
  for (const auto& [name, value] : context.client_metadata()) {
    state.grpc_forwarding.Forward({name.data(), name.size()}, {value.data(), value.size()},
                                  facts.forwarded);
  }
  return facts;
}

// `receive_start_ns`: when its message had come, and was not yet read.
void StartTrace(DoorState& state, std::int64_t receive_start_ns, InferRequest& request) {
  request.trace = state.tracer->Sample(request.model_name);
  if (request.trace == nullptr) return;
  request.trace_id = request.trace->NextId();
  request.trace->Stamp("GRPC_WAITREAD_START", receive_start_ns);
  request.trace->Stamp("GRPC_WAITREAD_END");
}

void Submit(std::unique_ptr<InferRequest> request, std::shared_ptr<std::atomic<bool>> cancelled,
            std::shared_ptr<AnswerOnce> once, const CallFacts& facts, Service& service) {
  request->parameters.insert(facts.forwarded.begin(), facts.forwarded.end());
  request->client_end_ns = facts.client_end_ns;
  request->times.arrival_ns = SteadyNowNs();
  request->is_cancelled = [cancelled = std::move(cancelled)] {
    return cancelled->load(std::memory_order_relaxed);
  };
  request->done = [once = std::move(once)](InferResponse response) {
    once->Answer(std::move(response));
  };
  service.Infer(std::move(request));
}

grpc::Status ShuttingDown() {
  return {grpc::StatusCode::UNAVAILABLE,
          "GRPC server is shutting down and has stopped accepting new requests."};
}

class UnaryCall final : public OpenCall {
 public:
  UnaryCall(grpc::CallbackServerContext& context, grpc::ByteBuffer& answer, const InferDoor& door)
      : OpenCall(context, answer, door.open), state_(door.state) {}

  // Throws nothing: gRPC would give the call a reactor of its own, and never end this one.
  void Run(const grpc::ByteBuffer& bytes, const InferDoor& door) {
    std::shared_ptr<AnswerOnce> once;  // from here on it sees to the answer, whatever happens
    try {
      absl::StatusOr<ParsedGrpcInfer> parsed =
          Parse(bytes, door, std::make_shared<RequestMessage>());
      if (!parsed.ok()) return Finish(ToGrpcStatus(parsed.status()));
      StartTrace(door.state, start_ns_, *parsed->request);
      trace_ = parsed->request->trace;
      // The reactor outlives the answer: OnDone follows Finish.
      once = std::make_shared<AnswerOnce>(
          [this, shared = std::move(parsed->shared_memory)](InferResponse response) {
            Finish(MakeAnswer(shared, std::move(response)));
          },
          door.pending);
      Submit(std::move(parsed->request), cancelled_, once, FactsOf(context_, state_), door.service);
    } catch (const std::bad_alloc&) {
      if (once == nullptr) Finish(NoMemory());
    }
  }

  void OnCancel() override { cancelled_->store(true, std::memory_order_relaxed); }
  void OnDone() override {
    if (trace_ != nullptr) trace_->Stamp("GRPC_SEND_END");
    OpenCall::OnDone();
  }

 private:
  // The status to finish with, and `answer_`. Throws nothing: who calls has no other answer.
  grpc::Status MakeAnswer(const SharedMemorySlices& shared, InferResponse response) {
    try {
      WriteSharedOutputs(&state_.regions, shared, response);
      const absl::Status refusal = response.status;
      grpc::Status status = ToGrpcStatus(refusal);
      if (status.ok()) status = Render(std::move(response));
      if (trace_ != nullptr) trace_->Stamp("GRPC_SEND_START");
      if (IsOverloaded(refusal)) Overloaded(state_.grpc_refusals);
      if (status.ok()) BeginAnswer(sent_);
      return status;
    } catch (const std::bad_alloc&) {
      return NoMemory();
    }
  }

  // What a client that retries is told, in the form that gRPC's own retries understand.
  void Overloaded(RefusalTimes& refusals) {
    context_.AddTrailingMetadata("grpc-retry-pushback-ms", Concat(1000 * kRetryAfterSeconds));
    refusals.Record(SteadyNowNs() - start_ns_);
  }

  grpc::Status Render(InferResponse response) {
    inference::ModelInferResponse message;
    RenderGrpcInfer(response, message);
    outputs_ = std::move(response.outputs);
    return WriteInferAnswer(InferCall::kUnary, message, outputs_, sent_, answer_);
  }

  DoorState& state_;
  std::vector<OutputTensor> outputs_;  // with their share of the memory for outputs
  const std::shared_ptr<SentBytes> sent_ = std::make_shared<SentBytes>(0);
  const std::int64_t start_ns_ = SteadyNowNs();
  std::shared_ptr<RequestTrace> trace_;
  // Only ever set; orders nothing else. Shared, since requests may outlive the call.
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace

grpc::ServerUnaryReactor* StartUnaryInfer(grpc::CallbackServerContext& context,
                                          const grpc::ByteBuffer& bytes, grpc::ByteBuffer& answer,
                                          const InferDoor& door) {
  auto* call = new UnaryCall(context, answer, door);
  call->Run(bytes, door);
  return call;
}

// A stream: requests are read one by one, run side by side, and answered in the order they came.
// The reactor is owned by itself (`self_`) until gRPC is done with it and no answer is owed.
class StreamCall final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                         public std::enable_shared_from_this<StreamCall> {
 public:
  StreamCall(grpc::CallbackServerContext& context, const InferDoor& door, StreamRegistry& registry)
      : context_(context),
        door_(door),
        open_(door.open.count),
        registry_(registry),
        facts_(FactsOf(context, door.state)),
        grpc_errors_(WantsGrpcErrors(context)) {}

  void Begin() {
    registry_.Add(shared_from_this());
    KeepSelf();
    // After Add: DrainAll knows this stream, or draining began before.
    if (door_.state.draining.load()) return Drain();
    Advance();
  }

  void BeginRefused(const grpc::Status& status) {
    KeepSelf();
    {
      MutexLock lock(mu_);
      finished_ = true;
    }
    Finish(status);
  }

  void Drain() {
    {
      MutexLock lock(mu_);
      draining_ = true;
    }
    Advance();
  }

  void OnReadDone(bool ok) override {
    try {
      TakeMessage(ok);
    } catch (const std::bad_alloc&) {
      RunOutOfMemory();
    }
    Advance();
  }

  void OnWriteDone(bool ok) override {
    EndUnread();
    {
      MutexLock lock(mu_);
      writing_ = false;
      if (slots_.front()->trace != nullptr) slots_.front()->trace->Stamp("GRPC_SEND_END");
      slots_.pop_front();
      if (!ok) broken_ = true;
    }
    Advance();
  }

  void OnCancel() override {
    cancelled_->store(true, std::memory_order_relaxed);
    {
      MutexLock lock(mu_);
      broken_ = true;
    }
    Advance();
  }

  void OnDone() override {
    std::shared_ptr<StreamCall> self;
    {
      MutexLock lock(mu_);
      self = std::move(self_);
    }
    registry_.Remove(self);
  }

 private:
  struct Slot {
    grpc::ByteBuffer answer;
    std::vector<OutputTensor> outputs;  // of `answer`, with their share of the memory for outputs
    std::shared_ptr<SentBytes> sent = std::make_shared<SentBytes>(0);
    bool ready = false;  // guarded by mu_
    // Guarded by mu_: not OK, if this is no answer but the end of the stream.
    grpc::Status end;
    std::shared_ptr<RequestTrace> trace;
  };

  // At most one of them.
  struct Operation {
    bool read = false;
    std::shared_ptr<const Slot> write = nullptr;
    std::optional<grpc::Status> finish = std::nullopt;
  };

  void KeepSelf() {
    MutexLock lock(mu_);
    self_ = shared_from_this();
  }

  void EndUnread() {
    SlowReaders::Id unread = 0;
    {
      MutexLock lock(mu_);
      unread = unread_;
    }
    // May wait, so without the lock.
    door_.open.slow_readers.End(unread);
  }

  // Ends the stream as soon as nothing is being written.
  void RunOutOfMemory() {
    MutexLock lock(mu_);
    broken_ = no_memory_ = true;
  }

  void TakeMessage(bool ok) {
    std::shared_ptr<Slot> slot;
    grpc::ByteBuffer bytes;
    {
      MutexLock lock(mu_);
      // Out of the way first: the next message may be read into it from here on.
      bytes.Swap(&incoming_);
      reading_ = false;
      if (!ok) {
        reads_over_ = true;
      } else if (!finished_) {
        slot = std::make_shared<Slot>();
        slots_.push_back(slot);
      }
    }
    if (slot) Run(bytes, slot);
  }

  void Run(const grpc::ByteBuffer& bytes, const std::shared_ptr<Slot>& slot) {
    const std::int64_t start_ns = SteadyNowNs();
    const auto message = std::make_shared<RequestMessage>();
    absl::StatusOr<ParsedGrpcInfer> parsed = Parse(bytes, door_, message);
    SharedMemorySlices shared;
    if (parsed.ok()) {
      StartTrace(door_.state, start_ns, *parsed->request);
      slot->trace = parsed->request->trace;
      shared = std::move(parsed->shared_memory);
    }
    auto once = std::make_shared<AnswerOnce>(
        [self = shared_from_this(), slot, id = message->message.id(),
         version = message->message.model_version(),
         shared = std::move(shared)](InferResponse response) {
          try {
            WriteSharedOutputs(&self->door_.state.regions, shared, response);
            self->Fill(std::move(response), id, version, *slot);
          } catch (const std::bad_alloc&) {
            self->RunOutOfMemory();
          }
          self->Advance();
        },
        door_.pending);
    if (parsed.ok()) {
      return Submit(std::move(parsed->request), cancelled_, std::move(once), facts_, door_.service);
    }
    InferResponse refusal;
    refusal.status = parsed.status();
    once->Answer(std::move(refusal));
  }

  // What a model says is the one and so the last answer to its request; a refusal at the door is
  // none. `version`: the request's own, which is what Triton tells with an error.
  void Fill(InferResponse response, const std::string& id, const std::string& version, Slot& slot) {
    inference::ModelStreamInferResponse answer;
    inference::ModelInferResponse& message = *answer.mutable_infer_response();
    if (response.status.ok()) {
      RenderGrpcInfer(response, message);
    } else {
      answer.set_error_message(std::string(response.status.message()));
      message.set_id(id);
      if (response.from_model) {
        message.set_model_name(response.model_name);
        message.set_model_version(version);
      }
    }
    if (response.from_model) {
      (*message.mutable_parameters())["triton_final_response"].set_bool_param(true);
    }
    slot.outputs = std::move(response.outputs);
    const grpc::Status written =
        response.status.ok()
            ? WriteInferAnswer(InferCall::kStream, message, slot.outputs, slot.sent, slot.answer)
            : WriteMessage(answer, slot.answer);
    if (slot.trace != nullptr) slot.trace->Stamp("GRPC_SEND_START");
    {
      MutexLock lock(mu_);
      slot.ready = true;
      if (grpc_errors_ && response.from_model) slot.end = ToGrpcStatus(response.status);
      if (!written.ok()) broken_ = true;
    }
  }

  // Does what may be done, until there is no more of it. gRPC lets nothing be begun beside or after
  // Finish, which may be the call's end: so one thread at a time begins operations, in the order
  // that they are decided in, and whoever comes meanwhile leaves it to that thread, which looks
  // again. Callers are reactions, or hold the call.
  void Advance() {
    for (bool first = true;; first = false) {
      Operation next;
      {
        MutexLock lock(mu_);
        if (first && advancing_) return;
        next = NextWithin();
        advancing_ = next.read || next.write != nullptr || next.finish;
        if (!advancing_) return;
      }
      if (next.write != nullptr) StartWrite(&next.write->answer);
      if (next.read) StartRead(&incoming_);
      if (next.finish) Finish(*next.finish);
    }
  }

  // Next, or the stream's end if there is no memory for it.
  Operation NextWithin() SIGLIP_REQUIRES(mu_) {
    try {
      return Next();
    } catch (const std::bad_alloc&) {
      broken_ = no_memory_ = true;
      return Next();
    }
  }

  Operation Next() SIGLIP_REQUIRES(mu_) {
    if (finished_) return {};
    const bool ready = !slots_.empty() && slots_.front()->ready;
    const bool ends = ready && !slots_.front()->end.ok();
    const bool stop = broken_ || ends || ((reads_over_ || draining_) && slots_.empty());
    if (stop && !writing_) {
      finished_ = true;
      if (no_memory_) {
        cancelled_->store(true, std::memory_order_relaxed);
        return {.finish = NoMemory()};
      }
      if (ends) {
        // What is under way is nobody's any more.
        cancelled_->store(true, std::memory_order_relaxed);
        return {.finish = slots_.front()->end};
      }
      return {.finish = draining_ && !reads_over_ ? ShuttingDown() : grpc::Status::OK};
    }
    if (!writing_ && ready) {
      const Slot& slot = *slots_.front();
      unread_ = door_.open.slow_readers.Begin(context_, slot.answer.Length(), slot.sent);
      writing_ = true;
      return {.write = slots_.front()};
    }
    if (!reading_ && !reads_over_ && !broken_ && !draining_ && slots_.size() < kMaxStreamRequests) {
      reading_ = true;
      return {.read = true};
    }
    return {};
  }

  grpc::CallbackServerContext& context_;  // until OnDone
  const InferDoor door_;
  const PendingCounter::Entry open_;
  StreamRegistry& registry_;
  const CallFacts facts_;
  const bool grpc_errors_;
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  // gRPC's while reading_ is set, else guarded by mu_.
  grpc::ByteBuffer incoming_;
  Mutex mu_;
  std::shared_ptr<StreamCall> self_ SIGLIP_GUARDED_BY(mu_);
  SlowReaders::Id unread_ SIGLIP_GUARDED_BY(mu_) = 0;  // of the write under way
  std::deque<std::shared_ptr<Slot>> slots_ SIGLIP_GUARDED_BY(mu_);
  bool advancing_ SIGLIP_GUARDED_BY(mu_) = false;
  bool reading_ SIGLIP_GUARDED_BY(mu_) = false;
  bool reads_over_ SIGLIP_GUARDED_BY(mu_) = false;
  bool writing_ SIGLIP_GUARDED_BY(mu_) = false;
  bool broken_ SIGLIP_GUARDED_BY(mu_) = false;
  bool no_memory_ SIGLIP_GUARDED_BY(mu_) = false;  // which broke it
  bool draining_ SIGLIP_GUARDED_BY(mu_) = false;
  bool finished_ SIGLIP_GUARDED_BY(mu_) = false;
};

void StreamRegistry::Add(const std::shared_ptr<StreamCall>& call) {
  MutexLock lock(mu_);
  open_.insert(call);
}

void StreamRegistry::Remove(const std::shared_ptr<StreamCall>& call) {
  MutexLock lock(mu_);
  open_.erase(call);
}

void StreamRegistry::DrainAll() {
  std::set<std::shared_ptr<StreamCall>> open;
  {
    MutexLock lock(mu_);
    open = open_;
  }
  for (const auto& call : open) call->Drain();
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartStreamInfer(
    grpc::CallbackServerContext& context, const InferDoor& door, StreamRegistry& registry,
    const absl::Status& access) {
  const auto call = std::make_shared<StreamCall>(context, door, registry);
  if (access.ok()) {
    call->Begin();
  } else {
    call->BeginRefused(ToGrpcStatus(access));
  }
  return call.get();
}

}  // namespace siglip
