#pragma once

// One inference request on its way through the house, and the answer that goes back through the
// door it brought along. Knows neither HTTP nor gRPC, neither pixels nor tokens.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "serving/data_type.h"
#include "serving/tracer.h"

namespace siglip {

using ParameterValue = std::variant<bool, std::int64_t, double, std::string>;
using Parameters = std::map<std::string, ParameterValue>;

// An input as it came: borrows from the request's `body` or from another tensor's storage.
struct InputTensor {
  std::string name = {};
  DataType datatype = DataType::kFp32;
  std::vector<std::int64_t> shape = {};
  // Every type but BYTES: row-major little-endian elements, possibly unaligned.
  std::span<const std::byte> data = {};
  // BYTES: one view per element, row-major, without length prefixes.
  std::vector<std::string_view> elements = {};
  // Keeps `data` or `elements` alive. Set when the bytes are not part of `InferRequest::body`.
  std::shared_ptr<const void> storage = {};
};

struct OutputTensor {
  std::string name = {};
  DataType datatype = DataType::kFp32;
  std::vector<std::int64_t> shape = {};
  std::span<const std::byte> data = {};  // row-major little-endian; borrows from `storage`
  std::shared_ptr<const void> storage = {};
};

// What a client asked to be returned. Empty list in the request = all outputs.
struct RequestedOutput {
  std::string name = {};
  std::int64_t classification = 0;  // > 0: the top N values as "value:index" BYTES instead
};

// Steady-clock nanoseconds; 0 = not reached. One source for statistics, metrics and bench.
struct RequestTimes {
  std::int64_t arrival_ns = 0;        // first byte parsed, request built
  std::int64_t queue_start_ns = 0;    // put into a scheduler's queue
  std::int64_t compute_start_ns = 0;  // left the queue: gathering of inputs starts
  std::int64_t infer_start_ns = 0;    // inputs ready, the step runs
  std::int64_t infer_end_ns = 0;      // the step is done, outputs are handed over
  std::int64_t done_ns = 0;           // answer handed to `done`
};

// What the work cost, of one step or summed over the steps of an ensemble.
struct ComputeDurations {
  std::uint64_t queue_ns = 0;
  std::uint64_t input_ns = 0;
  std::uint64_t infer_ns = 0;
  std::uint64_t output_ns = 0;
};

class ModelAccess;

struct InferResponse {
  absl::Status status = {};  // if not ok, only id, model_name and model_version are meaningful
  std::string id = {};
  std::string model_name = {};
  std::string model_version = {};
  Parameters parameters = {};
  std::vector<OutputTensor> outputs = {};  // in the order the client asked for, else the config's
  ComputeDurations durations;              // of an answer with outputs
  // Ids that the texts became, EOS among them and padding not, if the request asked for them.
  std::int64_t input_tokens = 0;
  // Whether a model had taken the request; else it was refused at the door.
  bool from_model = false;
};

// Has one owner, which moves it forward. Whoever holds it must see to it that `done` is called
// exactly once; destroying a request whose `done` was not called answers Internal.
struct InferRequest {
  InferRequest() = default;
  InferRequest(const InferRequest&) = delete;
  InferRequest& operator=(const InferRequest&) = delete;
  ~InferRequest();

  std::string id = {};
  std::string model_name = {};
  std::string model_version = {};  // empty = the newest
  Parameters parameters = {};      // free ones; the protocol's own are the fields below
  std::uint64_t priority = 0;
  std::uint64_t timeout_us = 0;  // 0 = none; of accepted_ns, and where the queue's policy allows it
  std::int64_t accepted_ns = 0;  // when the service took the client's request; 0 = not yet
  std::int64_t client_end_ns =
      0;  // the client waits no longer (gRPC's deadline); 0 = it tells none
  std::uint64_t sequence_id = 0;
  std::vector<InputTensor> inputs = {};
  std::vector<RequestedOutput> outputs = {};
  // Owner of the bytes that `inputs` borrow (HTTP body, protobuf message), and how many it holds,
  // read or not.
  std::shared_ptr<const void> body = {};
  std::size_t body_bytes = 0;
  // Raw HTTP requests name no input: `elements` or `data` of the single unnamed input is filled in
  // by the service from the model's configuration.
  bool deduce_input = false;
  // Whether InferResponse::input_tokens is wanted.
  bool count_tokens = false;
  // True once the client has gone: work not yet started is dropped. May be empty. Any thread.
  std::function<bool()> is_cancelled;
  // Called exactly once, on any thread, possibly before Service::Infer returns. Must not block.
  std::function<void(InferResponse)> done;
  RequestTimes times;
  // Of a request that was accepted before its inputs came (Service::TakePlace): it is taken though
  // the server is stopping.
  std::shared_ptr<const void> place = {};
  // Whether a model has taken the request. Set by the service; InferResponse::from_model.
  bool at_model = false;
  // The models as they were when the request came in. Set by the service.
  std::shared_ptr<ModelAccess> models = {};
  // Null unless the request is traced.
  std::shared_ptr<RequestTrace> trace = {};
  std::uint64_t trace_id = 0;
  std::uint64_t trace_parent_id = 0;  // 0 = the client's
};

// Bytes of all inputs.
std::size_t InputBytes(const InferRequest& request);
// Bytes that the request keeps alive: its body, inputs beside it, and parameters and id, of which
// each step of an ensemble has a copy.
std::size_t HeldBytes(const InferRequest& request);

// Gives what a request says about its client to one that is sent on its behalf: priority,
// time-outs, cancellation and trace.
void Inherit(const InferRequest& outer, InferRequest& inner);

// Calls the request's `done` and clears it; id, model name and version are filled in from the
// request. Nothing happens if it was called before.
void Answer(InferRequest& request, InferResponse response);
// Answers with an error and ends the request. REQUIRES: !status.ok().
void Refuse(std::unique_ptr<InferRequest> request, absl::Status status);

}  // namespace siglip
