#pragma once

// The work of one model: what a batcher hands its items to.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "serving/request.h"
#include "serving/statistics.h"

namespace siglip {

// One row of one request. Borrows from the request, which outlives Run.
struct Item {
  // Per input in the configuration's order. Fixed-size types: the row's bytes (aligned for the
  // type); BYTES with dims [1]: the element's bytes.
  std::vector<std::span<const std::byte>> inputs;
  // Per output in the configuration's order: where to write the row. Row 0 of a request is 64-byte
  // aligned; the rows lie side by side, so the others are where the row size is a multiple of 64.
  std::vector<std::span<std::byte>> outputs;
  const Parameters* parameters = nullptr;
  // When the answer is worth nothing any more: the step may stop and say DeadlineExceeded.
  std::int64_t end_ns = INT64_MAX;
  // True once the client has gone: likewise, Cancelled. May be null, or empty.
  const std::function<bool()>* is_cancelled = nullptr;
  // Set by the step when this item alone is bad. Others are not affected.
  absl::Status status;
};

// Where a request's rows of one output are written. `owner` gives it back.
struct OutputMemory {
  std::span<std::byte> bytes = {};  // 64-byte aligned
  std::shared_ptr<const void> owner = {};
};

// Thread-safe unless the model's configuration says one instance.
class Step {
 public:
  virtual ~Step() = default;

  // Runs 1..MaxBatchItems() items. A returned error fails all of them, an Item::status only its
  // own.
  virtual absl::Status Run(std::span<Item* const> items) = 0;
  virtual int MaxBatchItems() const = 0;
  // Memory for the rows of one output of a request that is about to run; a step whose work is done
  // elsewhere has them where that work can write. May throw bad_alloc.
  virtual OutputMemory AllocateOutput(std::size_t bytes);
  // Not OK while Run cannot succeed, which may pass: the model is not ready.
  virtual absl::Status Readiness() const { return absl::OkStatus(); }
  // Not OK once Run cannot succeed any more, and only a new process can help: a lost device.
  virtual absl::Status Health() const { return absl::OkStatus(); }
  // Bytes of memory that running this item will take beyond its outputs, known before it is queued
  // (declared pixels). An error refuses the item at once.
  virtual absl::StatusOr<std::int64_t> EstimateCost(const Item& item) const = 0;
  // Whether EstimateCost may wait, for another process: not to be called by a thread that serves
  // connections.
  virtual bool EstimateMayWait(const Item&) const { return false; }
  virtual StepCounters Counters() const { return {}; }
};

}  // namespace siglip
