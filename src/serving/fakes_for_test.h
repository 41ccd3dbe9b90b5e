#pragma once

// A clock that tests set, steps that tests watch, requests in one line.

#include <atomic>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "serving/model_config.h"
#include "serving/request.h"
#include "serving/step.h"

namespace siglip::testing {

class ManualClock final : public Clock {
 public:
  std::int64_t NowNs() const override { return now_ns_.load(); }
  std::int64_t UnixMs() const override { return 1'700'000'000'000 + now_ns_.load() / 1'000'000; }
  void Set(std::int64_t ns) { now_ns_ = ns; }
  void Advance(std::int64_t ns) { now_ns_ += ns; }

 private:
  std::atomic<std::int64_t> now_ns_{1'000'000'000};  // read by any thread, no order needed
};

// X FP32 [2] -> Y FP32 [2], max_batch_size 8.
inline ModelConfig FloatConfig(std::string name = "m") {
  ModelConfig config;
  config.name = std::move(name);
  config.backend = "siglip";
  config.max_batch_size = 8;
  config.inputs = {{.name = "X", .datatype = DataType::kFp32, .dims = {2}}};
  config.outputs = {{.name = "Y", .datatype = DataType::kFp32, .dims = {2}}};
  config.versions = {1};
  config.source = "built-in";
  return config;
}

// Y = X + 1. A row that starts with a negative number is bad on its own; `fail` fails the whole
// run.
class AddOneStep : public Step {
 public:
  absl::Status Run(std::span<Item* const> items) override {
    if (during_run) during_run();
    {
      MutexLock lock(mu_);
      batches_.push_back(items.size());
      for (const Item* item : items) ends_ns_.push_back(item->end_ns);
    }
    if (!fail.ok()) return fail;
    for (Item* item : items) {
      if (until_end) {
        until_end(item->end_ns);
        item->status = absl::DeadlineExceededError("late");
        continue;
      }
      float x[2];
      std::memcpy(x, item->inputs[0].data(), sizeof(x));
      if (x[0] < 0) {
        item->status = absl::InvalidArgumentError("negative");
        continue;
      }
      const float y[2] = {x[0] + 1, x[1] + 1};
      std::memcpy(item->outputs[0].data(), y, sizeof(y));
    }
    return absl::OkStatus();
  }
  OutputMemory AllocateOutput(std::size_t bytes) override {
    return output_memory ? output_memory(bytes) : Step::AllocateOutput(bytes);
  }
  absl::Status Readiness() const override { return readiness; }
  absl::Status Health() const override { return health; }
  int MaxBatchItems() const override { return max_batch_items; }
  absl::StatusOr<std::int64_t> EstimateCost(const Item& item) const override {
    float x = 0;
    std::memcpy(&x, item.inputs[0].data(), sizeof(x));
    if (x == 13) return absl::InvalidArgumentError("thirteen is too large");
    if (during_estimate) during_estimate();
    return cost_bytes;
  }
  bool EstimateMayWait(const Item& item) const override {
    float x = 0;
    std::memcpy(&x, item.inputs[0].data(), sizeof(x));
    return during_estimate != nullptr && x != hasty;
  }
  std::vector<std::size_t> batches() const {
    MutexLock lock(mu_);
    return batches_;
  }

  // Item::end_ns of what was run.
  std::vector<std::int64_t> ends_ns() const {
    MutexLock lock(mu_);
    return ends_ns_;
  }

  int max_batch_items = 8;
  std::int64_t cost_bytes = 0;
  absl::Status fail;
  absl::Status health;
  absl::Status readiness;
  std::function<void()> during_run;
  std::function<void()>
      during_estimate;  // which may wait then, but of rows that start with `hasty`
  float hasty = -1000;
  // Items run until they end, and fail.
  std::function<void(std::int64_t end_ns)> until_end;
  std::function<OutputMemory(std::size_t)> output_memory;

 private:
  mutable Mutex mu_;
  std::vector<std::size_t> batches_ SIGLIP_GUARDED_BY(mu_);
  std::vector<std::int64_t> ends_ns_ SIGLIP_GUARDED_BY(mu_);
};

// `values` are rows of `width`; answers go to `answer` if it is given.
inline std::unique_ptr<InferRequest> FloatRequest(std::vector<float> values,
                                                  std::vector<InferResponse>* answers = nullptr,
                                                  std::string model = "m", std::int64_t width = 2) {
  auto request = std::make_unique<InferRequest>();
  request->model_name = std::move(model);
  auto storage = std::make_shared<std::vector<float>>(std::move(values));
  InputTensor input;
  input.name = "X";
  input.datatype = DataType::kFp32;
  input.shape = {static_cast<std::int64_t>(storage->size()) / width, width};
  input.data = std::as_bytes(std::span(*storage));
  input.storage = storage;
  request->inputs.push_back(std::move(input));
  request->done = [answers](InferResponse response) {
    if (answers != nullptr) answers->push_back(std::move(response));
  };
  return request;
}

inline std::vector<float> Floats(const OutputTensor& output) {
  std::vector<float> values(output.data.size() / sizeof(float));
  std::memcpy(values.data(), output.data.data(), output.data.size());
  return values;
}

// The answer of a request whose `done` may come on another thread.
class Answered {
 public:
  explicit Answered(InferRequest& request) {
    request.done = [promise = promise_](InferResponse response) {
      promise->set_value(std::move(response));
    };
  }
  InferResponse Wait() { return promise_->get_future().get(); }

 private:
  std::shared_ptr<std::promise<InferResponse>> promise_ =
      std::make_shared<std::promise<InferResponse>>();
};

}  // namespace siglip::testing
