#include "serving/batch.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/aligned_buffer.h"
#include "base/checked_math.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "serving/item_errors.h"
#include "serving/refusals.h"
#include "serving/validate.h"

namespace siglip {
namespace {

std::int64_t RowBytes(const TensorConfig& tensor) {
  return ElementCount(tensor.dims).value_or(0) *
         static_cast<std::int64_t>(DataTypeSizeBytes(tensor.datatype));
}

// An output's rows, and the bytes of the budget that they hold.
struct OutputBlock {
  OutputMemory memory;
  std::shared_ptr<Budget::Hold> hold;
};

void AlignInputs(const ModelConfig& config, QueuedRequest& queued) {
  for (std::size_t i = 0; i < config.inputs.size(); ++i) {
    const InputTensor& input = queued.request->inputs[i];
    const std::size_t alignment = DataTypeSizeBytes(input.datatype);
    if (alignment <= 1 || reinterpret_cast<std::uintptr_t>(input.data.data()) % alignment == 0)
      continue;
    auto copy = std::make_shared<AlignedBuffer<std::byte>>(input.data.size());
    std::memcpy(copy->data(), input.data.data(), input.data.size());
    const std::size_t row = input.data.size() / queued.items.size();
    for (std::size_t r = 0; r < queued.items.size(); ++r) {
      queued.items[r].inputs[i] = copy->span().subspan(r * row, row);
    }
    queued.aligned_copies.push_back(std::move(copy));
  }
}

void AllocateOutputs(const ModelConfig& config, Step& step, QueuedRequest& queued) {
  const std::size_t rows = queued.items.size();
  for (const TensorConfig& tensor : config.outputs) {
    const auto row = static_cast<std::size_t>(RowBytes(tensor));
    auto block = std::make_shared<OutputBlock>();
    block->memory = step.AllocateOutput(row * rows);
    block->hold = queued.hold;
    OutputTensor output;
    output.name = tensor.name;
    output.datatype = tensor.datatype;
    if (config.max_batch_size > 0) output.shape.push_back(static_cast<std::int64_t>(rows));
    output.shape.insert(output.shape.end(), tensor.dims.begin(), tensor.dims.end());
    output.data = block->memory.bytes;
    for (std::size_t r = 0; r < rows; ++r) {
      queued.items[r].outputs.push_back(block->memory.bytes.subspan(r * row, row));
    }
    output.storage = std::move(block);
    queued.outputs.push_back(std::move(output));
  }
}

absl::Status Gather(const ModelConfig& config, Step& step, QueuedRequest& queued) {
  try {
    AlignInputs(config, queued);
    AllocateOutputs(config, step, queued);
    return absl::OkStatus();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("out of memory for ", queued.rows(), " row(s) of model '", config.name, "'"));
  }
}

absl::Status RunStep(Step& step, const std::vector<Item*>& items) {
  try {
    return step.Run(items);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat("step threw: ", e.what()));
  }
}

std::vector<OutputTensor> Requested(const InferRequest& request,
                                    std::vector<OutputTensor> outputs) {
  if (request.outputs.empty()) return outputs;
  std::vector<OutputTensor> chosen;
  for (const RequestedOutput& wanted : request.outputs) {
    for (const OutputTensor& output : outputs) {
      if (output.name == wanted.name) chosen.push_back(output);
    }
  }
  return chosen;
}

// The same words for a time-out, whether it passed in the queue or while the step ran.
absl::Status OwnStatus(const QueuedRequest& queued, std::int64_t now_ns) {
  const absl::Status status = JoinItemErrors(queued.items);
  const bool timed_out = absl::IsDeadlineExceeded(status) && queued.end_ns == queued.deadline_ns &&
                         now_ns >= queued.end_ns;
  return timed_out ? TimeoutRefusal() : status;
}

struct BatchTimes {
  std::int64_t compute_start_ns = 0;
  std::int64_t infer_start_ns = 0;
  std::int64_t infer_end_ns = 0;
};

void SetTimes(const BatchTimes& times, InferRequest& request) {
  request.times.compute_start_ns = times.compute_start_ns;
  request.times.infer_start_ns = times.infer_start_ns;
  request.times.infer_end_ns = times.infer_end_ns;
}

void AnswerQueued(const BatchContext& context, const BatchTimes& times, QueuedRequest queued) {
  InferRequest& request = *queued.request;
  SetTimes(times, request);
  InferResponse response;
  response.outputs = Requested(request, std::move(queued.outputs));
  request.times.done_ns = context.clock.NowNs();
  response.durations = {.queue_ns = ElapsedNs(request.times.queue_start_ns, times.compute_start_ns),
                        .input_ns = ElapsedNs(times.compute_start_ns, times.infer_start_ns),
                        .infer_ns = ElapsedNs(times.infer_start_ns, times.infer_end_ns),
                        .output_ns = ElapsedNs(times.infer_end_ns, request.times.done_ns)};
  context.statistics.RecordSuccess(queued.rows(),
                                   ElapsedNs(request.times.arrival_ns, request.times.done_ns),
                                   response.durations);
  Answer(request, std::move(response));
}

FailureReason RunFailureReason(const absl::Status& status) {
  const FailureReason reason = FailureReasonOf(status);
  return reason == FailureReason::kRejected ? FailureReason::kBackend : reason;
}

void FailQueued(const BatchContext& context, QueuedRequest queued, const absl::Status& status,
                FailureReason reason) {
  std::unique_ptr<InferRequest> request = std::move(queued.request);
  request->times.done_ns = context.clock.NowNs();
  context.statistics.RecordFailure(reason,
                                   ElapsedNs(request->times.arrival_ns, request->times.done_ns));
  const std::string prefix = RequestPrefix(*request);
  Refuse(std::move(request), PrefixStatus(status, prefix));
}

// Leaves in `batch` what it has not answered, if memory runs out.
void RunBatch(const BatchContext& context, std::vector<QueuedRequest>& batch) {
  BatchTimes times;
  times.compute_start_ns = context.clock.NowNs();
  std::vector<QueuedRequest*> running;
  std::vector<Item*> items;
  for (QueuedRequest& queued : batch) {
    if (absl::Status status = Gather(context.config, context.step, queued); !status.ok()) {
      FailQueued(context, std::move(queued), status, FailureReason::kBackend);
      continue;
    }
    running.push_back(&queued);
    for (Item& item : queued.items) items.push_back(&item);
  }
  if (items.empty()) return;
  times.infer_start_ns = context.clock.NowNs();
  const absl::Status status = RunStep(context.step, items);
  if (!status.ok() && context.on_lost) {
    if (const absl::Status health = context.step.Health(); !health.ok()) context.on_lost(health);
  }
  times.infer_end_ns = context.clock.NowNs();
  const auto rows = static_cast<std::int64_t>(items.size());
  const std::uint64_t input_ns = ElapsedNs(times.compute_start_ns, times.infer_start_ns);
  const std::uint64_t infer_ns = ElapsedNs(times.infer_start_ns, times.infer_end_ns);
  if (status.ok()) {
    context.statistics.RecordExecution(
        rows, {.input_ns = input_ns,
               .infer_ns = infer_ns,
               .output_ns = ElapsedNs(times.infer_end_ns, context.clock.NowNs())});
  }
  for (QueuedRequest* queued : running) {
    const absl::Status own = status.ok() ? OwnStatus(*queued, times.infer_end_ns) : status;
    if (own.ok()) {
      AnswerQueued(context, times, std::move(*queued));
    } else {
      SetTimes(times, *queued->request);
      FailQueued(context, std::move(*queued), own, RunFailureReason(own));
    }
  }
}

}  // namespace

std::vector<Item> MakeItems(const ModelConfig& config, const InferRequest& request) {
  const auto rows = static_cast<std::size_t>(BatchSize(config, request));
  std::vector<Item> items(rows);
  for (std::size_t r = 0; r < rows; ++r) {
    items[r].parameters = &request.parameters;
    for (const InputTensor& input : request.inputs) {
      if (input.datatype == DataType::kBytes) {
        // One element per row: dims [1], checked at load.
        const std::string_view element = input.elements[r];
        items[r].inputs.push_back(std::as_bytes(std::span(element.data(), element.size())));
      } else {
        const std::size_t row = input.data.size() / rows;
        items[r].inputs.push_back(input.data.subspan(r * row, row));
      }
    }
  }
  return items;
}

std::int64_t OutputBytes(const ModelConfig& config, std::int64_t rows) {
  std::int64_t bytes = 0;
  for (const TensorConfig& tensor : config.outputs) bytes += RowBytes(tensor) * rows;
  return bytes;
}

absl::StatusOr<std::int64_t> EstimateCost(const Step& step, const std::vector<Item>& items) {
  std::int64_t sum = 0;
  std::vector<Item> judged(items.size());
  bool bad = false;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const absl::StatusOr<std::int64_t> cost = step.EstimateCost(items[i]);
    if (cost.ok()) {
      sum = CheckedAdd(sum, std::max<std::int64_t>(0, *cost)).value_or(INT64_MAX);
      continue;
    }
    bad = true;
    judged[i].status = cost.status();
    // One that took too long is enough: the others could each take as long.
    if (absl::IsDeadlineExceeded(cost.status()) || absl::IsCancelled(cost.status())) break;
  }
  if (bad) return JoinItemErrors(judged);
  return sum;
}

absl::Status JoinItemErrors(const std::vector<Item>& items) {
  std::vector<ItemError> errors;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (!items[i].status.ok()) errors.push_back({.item = i, .status = items[i].status});
  }
  return JoinItemErrors(items.size(), errors);
}

void RefuseQueued(const BatchContext& context, QueuedRequest queued, const absl::Status& status) {
  FailQueued(context, std::move(queued), status, FailureReasonOf(status));
}

void ExecuteBatch(const BatchContext& context, std::vector<QueuedRequest> batch) {
  try {
    RunBatch(context, batch);
  } catch (const std::bad_alloc&) {
    const absl::Status no_memory = absl::ResourceExhaustedError("out of memory");
    for (QueuedRequest& queued : batch) {
      if (queued.request == nullptr) continue;
      FailQueued(context, std::move(queued), no_memory, FailureReason::kBackend);
    }
  }
}

}  // namespace siglip
