#pragma once

// What both libraries do behind Triton's entry points: libtriton_siglip.so computes (image_process,
// vision, text), libtriton_siglip_embed.so holds the clients' doors (embed_image, embed_text). The
// work itself is that of `siglip serve`: the same deployments, made from the same configurations.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "deployments/factory.h"
#include "triton/core/tritonbackend.h"
#include "triton/core_models.h"
#include "triton/pending_request.h"

namespace siglip::triton {

// What distinguishes the libraries.
struct BackendKind {
  const char* name;   // as config.pbtxt has it under `backend`
  const char* other;  // the library that has the other steps
  bool doors;
  std::function<absl::StatusOr<std::unique_ptr<Model>>(const std::string&, const ModelOptions&)>
      open;
};

// One per process and library. Thread-safe.
class Backend {
 public:
  // Checks the core's version, reads --backend-config.
  static absl::StatusOr<std::unique_ptr<Backend>> Create(const BackendKind& kind,
                                                         TRITONBACKEND_Backend* backend);

  absl::StatusOr<Deployment> Make(ModelConfig& config) SIGLIP_EXCLUDES(mu_);
  const BackendKind& kind() const { return kind_; }
  TRITONSERVER_ResponseAllocator* allocator() const { return allocator_.get(); }

 private:
  Backend(const BackendKind& kind, DeploymentsOptions options, ResponseAllocator allocator)
      : kind_(kind), allocator_(std::move(allocator)), factory_(std::move(options)) {}

  const BackendKind kind_;
  const ResponseAllocator allocator_;
  Mutex mu_;
  DeploymentsFactory factory_ SIGLIP_GUARDED_BY(mu_);
};

// One per loaded model; its instances share it. Thread-safe.
class LoadedDeployment {
 public:
  // Fills the dims that the configuration leaves out, and warms the model up.
  static absl::StatusOr<std::unique_ptr<LoadedDeployment>> Create(Backend& backend,
                                                                  TRITONBACKEND_Model* model);

  // Takes over the requests, all or, by an error, none. Steps are finished on return, doors not.
  absl::Status Execute(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests,
                       std::uint32_t num_requests);

 private:
  LoadedDeployment(Backend& backend, ModelConfig config, Deployment deployment,
                   TRITONSERVER_Server* server)
      : backend_(backend),
        config_(std::move(config)),
        deployment_(std::move(deployment)),
        server_(server) {}

  void Forward(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request,
               PendingRequest owner);

  Backend& backend_;
  const ModelConfig config_;
  const Deployment deployment_;
  TRITONSERVER_Server* const server_;
};

}  // namespace siglip::triton
