#pragma once

// The door between the wire (protocol, server) and the models.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "serving/model_config.h"
#include "serving/request.h"
#include "serving/statistics.h"

namespace siglip {

struct ServerMetadata {
  std::string name;
  std::string version;
  std::vector<std::string> extensions;
};

struct ModelMetadata {
  std::string name;
  std::vector<std::string> versions;
  std::string platform;
  // shape with a leading -1 when the model batches.
  std::vector<TensorConfig> inputs;
  std::vector<TensorConfig> outputs;
};

struct IndexRow {
  std::string name = {};
  std::string version = {};
  std::string state = {};  // READY, UNAVAILABLE, LOADING, UNLOADING; empty: never loaded
  std::string reason = {};
};

struct LoadModelRequest {
  std::string name;
  // In place of the repository's config.pbtxt.
  std::optional<ModelConfig> config;
};

// What load and unload say unless the control mode is explicit.
absl::Status ControlRefused();

// Thread-safe. An empty version means the newest; a version is decimal digits otherwise.
// Errors carry Triton's codes and texts: NotFound "Request for unknown model: 'x' is not found", or
// "... has no available versions"; Unavailable "... version 1 is not at ready state";
// InvalidArgument for everything wrong with a request.
class Service {
 public:
  virtual ~Service() = default;

  virtual bool Live() const = 0;
  virtual bool Ready() const = 0;
  // FailedPrecondition "Model version not ready" for what is not ready, and as in Triton for what
  // is unknown.
  virtual absl::Status ModelReady(const std::string& name, const std::string& version) const = 0;
  virtual ServerMetadata Metadata() const = 0;
  virtual absl::StatusOr<ModelMetadata> GetModelMetadata(const std::string& name,
                                                         const std::string& version) const = 0;
  // Normalised as Triton's core does before printing (triton-protocol.md 2.2).
  virtual absl::StatusOr<std::shared_ptr<const ModelConfig>> GetModelConfig(
      const std::string& name, const std::string& version) const = 0;
  // Empty name = all models.
  virtual absl::StatusOr<std::vector<ModelStatistics>> GetStatistics(
      const std::string& name, const std::string& version) const = 0;
  // Nothing without a response cache.
  virtual std::optional<CacheStatistics> GetCacheStatistics() const = 0;
  virtual std::vector<IndexRow> RepositoryIndex(bool ready_only) const = 0;

  // Loads the model, or loads it anew; the ensemble's steps come with it. `done` is called once, on
  // any thread: Internal if there is no such model or its configuration is wrong, InvalidArgument
  // if what that asks for cannot be had; with the reason, and then an older one serves on.
  virtual void LoadModel(LoadModelRequest request, std::function<void(absl::Status)> done) = 0;
  // Requests that came before are answered. Ensembles over the model go too; `unload_dependents`:
  // so do the steps of an ensemble.
  virtual void UnloadModel(const std::string& name, bool unload_dependents,
                           std::function<void(absl::Status)> done) = 0;

  // Counts a request whose inputs are still to come among those in flight, until the last copy is
  // gone; it goes to Infer with its inputs (InferRequest::place). Errors are Infer's.
  virtual absl::StatusOr<std::shared_ptr<const void>> TakePlace() = 0;
  // Requests that were accepted and have no answer yet.
  virtual std::int64_t InflightRequests() const = 0;

  // Takes the request over; its `done` is called exactly once, with the answer or the refusal.
  virtual void Infer(std::unique_ptr<InferRequest> request) = 0;
};

}  // namespace siglip
