#include "server/grpc_call.h"

#include <iterator>
#include <new>
#include <string>
#include <string_view>

#include "base/absl_view.h"
#include "protocol/status_map.h"
#include "protocol/text.h"

namespace siglip {
namespace {

// Of --grpc-memory-quota: answers without tensors have some kilobytes, and are read at once.
constexpr std::size_t kAnswersPart = 8;

absl::Status CheckApiKey(const grpc::CallbackServerContext& context, Api api,
                         const DoorState& state) {
  if (NeedsNoApiKey(api)) return absl::OkStatus();
  const auto [begin, end] = context.client_metadata().equal_range("authorization");
  std::optional<std::string_view> authorization;
  if (begin != end && std::next(begin) == end) {
    authorization = std::string_view(begin->second.data(), begin->second.size());
  }
  const ApiKeys::Verdict verdict = state.api_keys.Check(authorization);
  if (verdict == ApiKeys::Verdict::kAllowed) return absl::OkStatus();
  const std::string_view text = ApiKeyRefusal(verdict);
  return absl::UnauthenticatedError({text.data(), text.size()});
}

// A status' text is metadata, which a client takes no more than 8 kB of, and other than printable
// ASCII takes three bytes each there.
constexpr std::size_t kMaxTextBytes = 4096;

std::size_t MetadataBytes(char c) { return c >= ' ' && c <= '~' && c != '%' ? 1 : 3; }

// How many bytes at the beginning of [begin, end) fit into `room`.
template <class Iterator>
std::size_t FittingBytes(Iterator begin, Iterator end, std::size_t room) {
  std::size_t used = 0;
  Iterator at = begin;
  while (at != end && used + MetadataBytes(*at) <= room) used += MetadataBytes(*at++);
  return static_cast<std::size_t>(at - begin);
}

// Without its middle, if it is too long: the beginning says what, and the end often why.
std::string ShortText(std::string_view text) {
  if (FittingBytes(text.begin(), text.end(), kMaxTextBytes) == text.size()) {
    return std::string(text);
  }
  std::size_t head = FittingBytes(text.begin(), text.end(), kMaxTextBytes * 3 / 4);
  std::size_t tail = FittingBytes(text.rbegin(), text.rend(), kMaxTextBytes / 4 - 64);
  // Whole characters of UTF-8.
  const auto continues = [&text](std::size_t at) { return (text[at] & 0xC0) == 0x80; };
  while (head > 0 && continues(head)) --head;
  while (tail > 0 && continues(text.size() - tail)) --tail;
  return Concat(text.substr(0, head), " [", text.size() - head - tail, " bytes left out] ",
                text.substr(text.size() - tail));
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string text = ShortText(StdView(status.message()));
  // The call's own deadline, noticed here before the client did: the code that it would make
  // itself.
  if (absl::IsDeadlineExceeded(status)) {
    return {grpc::StatusCode::DEADLINE_EXCEEDED, std::move(text)};
  }
  // A message over its limit (ReadMessage): gRPC's own code, with which nobody tries again.
  if (absl::IsOutOfRange(status)) {
    return {grpc::StatusCode::RESOURCE_EXHAUSTED, std::move(text)};
  }
  // The numbers of both enums are the canonical codes.
  return {static_cast<grpc::StatusCode>(WireCode(status.code())), std::move(text)};
}

grpc::Status NoMemory() { return {grpc::StatusCode::UNAVAILABLE, "no memory"}; }

absl::Status CheckGrpcAccess(const grpc::CallbackServerContext& context, Api api,
                             const DoorState& state) {
  if (absl::Status status = CheckApiKey(context, api, state); !status.ok()) return status;
  const RestrictedApis::Rule* rule = state.grpc_restricted.RuleOf(api);
  if (rule == nullptr) return absl::OkStatus();
  for (const auto& [name, value] : context.client_metadata()) {
    if (EqualsIgnoreCase({name.data(), name.size()}, rule->header) &&
        RestrictedApis::Matches(*rule, {value.data(), value.size()})) {
      return absl::OkStatus();
    }
  }
  return absl::UnavailableError(
      Concat("This protocol is restricted, expecting header '", rule->header, "'"));
}

void PendingCounter::Add() {
  MutexLock lock(mu_);
  ++count_;
}

void PendingCounter::Remove() {
  MutexLock lock(mu_);
  if (--count_ == 0) zero_.NotifyAll();
}

bool PendingCounter::WaitZero(std::chrono::steady_clock::time_point deadline) {
  MutexLock lock(mu_);
  while (count_ != 0) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= left.zero()) return false;
    zero_.WaitFor(mu_, left);
  }
  return true;
}

OpenCalls::OpenCalls(const GrpcLimits& limits)
    : slow_readers(limits),
      answers(std::make_shared<Budget>(
          static_cast<std::int64_t>(limits.memory_quota_bytes / kAnswersPart))) {}

void OpenCall::FinishControl(grpc::Status status) {
  if (!status.ok()) return Finish(std::move(status));
  try {
    if (calls_.answers->TryGrow(hold_, static_cast<std::int64_t>(answer_.Length()))) {
      BeginAnswer(std::make_shared<SentBytes>(0));
    } else {
      status = {grpc::StatusCode::UNAVAILABLE, "Exceeds the memory for answers being written"};
    }
  } catch (const std::bad_alloc&) {
    status = NoMemory();
  }
  Finish(std::move(status));
}

void OpenCall::OnDone() {
  if (unread_) calls_.slow_readers.End(*unread_);
  delete this;
}

}  // namespace siglip
