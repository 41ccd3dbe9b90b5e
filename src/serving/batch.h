#pragma once

// The way of a formed batch: rows of requests become items, the step runs, answers go out. No
// queue, no lock.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "serving/budget.h"
#include "serving/model_config.h"
#include "serving/request.h"
#include "serving/statistics_recorder.h"
#include "serving/step.h"

namespace siglip {

// A request in a batcher's queue.
struct QueuedRequest {
  std::unique_ptr<InferRequest> request;
  std::vector<Item> items;  // one per row; borrow from `request`, `aligned_copies` and `outputs`
  std::vector<OutputTensor> outputs;
  std::vector<std::shared_ptr<const void>> aligned_copies;
  std::shared_ptr<Budget::Hold> hold;  // of the outputs' bytes
  std::int64_t cost_bytes = 0;         // that running all its items takes
  std::optional<std::int64_t> deadline_ns;
  std::int64_t end_ns = INT64_MAX;  // nobody waits for the answer any more

  std::int64_t rows() const { return static_cast<std::int64_t>(items.size()); }
};

// Items of a validated request, inputs set as they came (perhaps unaligned), outputs not yet.
std::vector<Item> MakeItems(const ModelConfig& config, const InferRequest& request);
// Bytes of all outputs of `rows` rows. REQUIRES: dims are fixed.
std::int64_t OutputBytes(const ModelConfig& config, std::int64_t rows);
// Sums Step::EstimateCost of the items; its error names the item.
absl::StatusOr<std::int64_t> EstimateCost(const Step& step, const std::vector<Item>& items);
// One status of the items' own, as item_errors.h makes it.
absl::Status JoinItemErrors(const std::vector<Item>& items);

struct BatchContext {
  const ModelConfig& config;
  Step& step;
  const Clock& clock;
  StatisticsRecorder& statistics;
  // Told when Step::Health() is not OK after a run that failed, before the answers go out.
  const std::function<void(const absl::Status&)>& on_lost;
};

// Runs the batch and answers every request. Failures are recorded under their reason. Where memory
// runs out on the way, those that have no answer yet are refused with ResourceExhausted.
void ExecuteBatch(const BatchContext& context, std::vector<QueuedRequest> batch);
// Answers with `status`, prefixed by the request's id, and records the failure.
void RefuseQueued(const BatchContext& context, QueuedRequest queued, const absl::Status& status);

}  // namespace siglip
