#pragma once

// What `deployments` makes of a configuration, and what a model that sends its work on to others
// may ask of the service.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "serving/model_config.h"
#include "serving/request.h"
#include "serving/step.h"
#include "serving/work_lanes.h"

namespace siglip {

// The other models, for ensembles and forwarding models. Thread-safe; outlives their requests.
class ModelAccess {
 public:
  virtual ~ModelAccess() = default;
  // The configuration of a model that is ready; NotFound or Unavailable otherwise.
  virtual absl::StatusOr<std::shared_ptr<const ModelConfig>> ReadyConfig(
      const std::string& name, const std::string& version) const = 0;
  // Like Service::Infer for a request that is part of an admitted one: refused only by the model.
  virtual void InferWithin(std::unique_ptr<InferRequest> request) = 0;
  // Another number after each loading and unloading.
  virtual std::uint64_t generation() const = 0;
};

// A model whose work other models do. Thread-safe.
class Forwarder {
 public:
  virtual ~Forwarder() = default;
  // Takes over a request that ValidateRequest accepted and answers it, perhaps later on another
  // thread, never waiting for the other models. The answer's durations are the forwarder's account:
  // input_ns before it sent anything, infer_ns until all came back, output_ns for the joining.
  virtual void Forward(std::unique_ptr<InferRequest> request, ModelAccess& models) = 0;
  // What Forward does before it sends anything on: which thread may call it.
  virtual WorkLoad LoadOf(const InferRequest& request) const {
    return LoadOfBytes(InputBytes(request));
  }
};

// One of the two.
struct Deployment {
  std::shared_ptr<Step> step;
  std::shared_ptr<Forwarder> forwarder;
  std::vector<int> gpus;  // it runs on them: what KIND_AUTO means; empty: on the CPU
  int num_instances = 1;  // of each GPU, or of the CPU, where the configuration names none
};

class DeploymentFactory {
 public:
  virtual ~DeploymentFactory() = default;
  // Fills the dims that the configuration leaves out, and makes the work. Never called for
  // ensembles. Errors name config.source and the field, what was expected and what was found.
  virtual absl::StatusOr<Deployment> Make(ModelConfig& config) = 0;
};

}  // namespace siglip
