#pragma once

// A Service for the tests of this folder: model "echo" (input X FP32 [-1], output Y the same bytes,
// and input T BYTES), answers at once, later, or never, as told. A request with the id "broken"
// fails in its model.

#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "serving/overload.h"
#include "serving/service.h"

namespace siglip {

class FakeService : public Service {
 public:
  std::atomic<bool> live{true};
  std::atomic<bool> ready{true};
  // Requests wait in held() until Release.
  std::atomic<bool> hold{false};
  // Of its metadata.
  std::string server_version = "2.73.0";
  // Refuses, as if there were no room.
  std::atomic<bool> full{false};

  bool Live() const override { return live; }
  bool Ready() const override { return ready; }

  absl::Status ModelReady(const std::string& name, const std::string& version) const override {
    if (Known(name, version).ok()) return absl::OkStatus();
    return absl::FailedPreconditionError("Model version not ready");
  }

  ServerMetadata Metadata() const override {
    return {"triton", server_version, {"statistics", "parameters"}};
  }

  absl::StatusOr<ModelMetadata> GetModelMetadata(const std::string& name,
                                                 const std::string& version) const override {
    if (absl::Status status = Known(name, version); !status.ok()) return status;
    return ModelMetadata{"echo",
                         {"1"},
                         "siglip",
                         {{"X", DataType::kFp32, {-1, -1}, false}},
                         {{"Y", DataType::kFp32, {-1, -1}, false}}};
  }

  absl::StatusOr<std::shared_ptr<const ModelConfig>> GetModelConfig(
      const std::string& name, const std::string& version) const override {
    if (absl::Status status = Known(name, version); !status.ok()) return status;
    auto config = std::make_shared<ModelConfig>();
    config->name = "echo";
    config->backend = "siglip";
    config->max_batch_size = 8;
    config->inputs = {{.name = "X", .datatype = DataType::kFp32, .dims = {-1}}};
    return std::shared_ptr<const ModelConfig>(std::move(config));
  }

  absl::StatusOr<std::vector<ModelStatistics>> GetStatistics(
      const std::string& name, const std::string& version) const override {
    if (!name.empty()) {
      if (absl::Status status = Known(name, version); !status.ok()) return status;
    }
    ModelStatistics row;
    row.name = "echo";
    row.version = "1";
    MutexLock lock(mu_);
    row.success = {count_, count_ * 2000000};
    row.inference_count = count_;
    return std::vector<ModelStatistics>{row};
  }

  std::optional<CacheStatistics> GetCacheStatistics() const override { return std::nullopt; }

  std::vector<IndexRow> RepositoryIndex(bool ready_only) const override {
    std::vector<IndexRow> rows = {{"echo", "1", "READY", ""}};
    if (!ready_only) rows.push_back({"loading", "1", "LOADING", "slow"});
    return rows;
  }

  // Loads "echo" alone, once allowed.
  std::atomic<bool> explicit_mode{false};
  void LoadModel(LoadModelRequest request, std::function<void(absl::Status)> done) override {
    if (!explicit_mode) return done(ControlRefused());
    done(request.name == "echo" ? absl::OkStatus()
                                : absl::InternalError("failed to load '" + request.name +
                                                      "', failed to poll from model repository"));
  }
  void UnloadModel(const std::string&, bool, std::function<void(absl::Status)> done) override {
    done(explicit_mode ? absl::OkStatus() : ControlRefused());
  }

  // Those taken and not given back.
  std::int64_t places() const { return places_.use_count() - 1; }
  absl::StatusOr<std::shared_ptr<const void>> TakePlace() override {
    if (full) return OverloadedError("Exceeds maximum number of requests in flight");
    return std::shared_ptr<const void>(places_);
  }
  std::int64_t InflightRequests() const override {
    return static_cast<std::int64_t>(held()) + places();
  }

  void Infer(std::unique_ptr<InferRequest> request) override {
    if (full) return Refuse(std::move(request), OverloadedError("Exceeds maximum queue size"));
    if (hold) {
      MutexLock lock(mu_);
      held_.push_back(std::move(request));
      arrived_.NotifyAll();
      return;
    }
    Finish(std::move(request));
  }

  // Waits until `count` requests are held.
  void AwaitHeld(std::size_t count) {
    MutexLock lock(mu_);
    while (held_.size() < count) arrived_.Wait(mu_);
  }

  std::size_t held() const {
    MutexLock lock(mu_);
    return held_.size();
  }

  std::unique_ptr<InferRequest> Take(std::size_t index) {
    MutexLock lock(mu_);
    auto request = std::move(held_[index]);
    held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(index));
    return request;
  }

  void Finish(std::unique_ptr<InferRequest> request) {
    InferResponse response;
    response.id = request->id;
    response.model_name = request->model_name;
    response.model_version = "1";
    response.status = Known(request->model_name, request->model_version);
    response.from_model = response.status.ok();
    if (request->id == "broken") response.status = absl::InternalError("it broke");
    for (InputTensor& input : request->inputs) {
      OutputTensor output;
      output.name = "Y";
      output.datatype = DataType::kFp32;
      output.shape = {static_cast<std::int64_t>(input.data.size() / 4)};
      output.data = input.data;
      output.storage =
          std::make_shared<std::pair<std::shared_ptr<const void>, std::shared_ptr<const void>>>(
              request->body, input.storage);
      response.outputs.push_back(std::move(output));
    }
    {
      MutexLock lock(mu_);
      ++count_;
    }
    const auto done = std::move(request->done);
    request.reset();
    done(std::move(response));
  }

 private:
  static absl::Status Known(const std::string& name, const std::string& version) {
    if (name == "echo" && (version.empty() || version == "1")) return absl::OkStatus();
    return absl::NotFoundError("Request for unknown model: '" + name + "' is not found");
  }

  const std::shared_ptr<int> places_ = std::make_shared<int>();
  mutable Mutex mu_;
  CondVar arrived_;
  std::vector<std::unique_ptr<InferRequest>> held_ SIGLIP_GUARDED_BY(mu_);
  std::uint64_t count_ SIGLIP_GUARDED_BY(mu_) = 0;
};

}  // namespace siglip
