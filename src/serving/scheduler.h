#pragma once

// What takes a model's requests: a batcher, an ensemble, or a model that forwards to others.

#include <memory>

#include "serving/request.h"

namespace siglip {

// Thread-safe.
class Scheduler {
 public:
  virtual ~Scheduler() = default;
  // Takes over a request that ValidateRequest accepted. Does not wait for its work; its `done` may
  // be called before this returns.
  virtual void Enqueue(std::unique_ptr<InferRequest> request) = 0;
  // Refuses what is queued and what still comes, and returns when nothing runs any more. Schedulers
  // send to each other, so all are stopped before the first is destroyed. May be called twice.
  virtual void Stop() = 0;
};

}  // namespace siglip
