// What Triton's core looks up in a backend library. Nothing here but translation: our objects are
// the core's states, our statuses its errors.

#include <algorithm>
#include <exception>
#include <new>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "triton/abi_status.h"
#include "triton/backend.h"
#include "triton/core/tritonbackend.h"
#include "triton/this_backend.h"

#define SIGLIP_EXPORT extern "C" __attribute__((visibility("default")))

namespace siglip::triton {
namespace {

// No exception may reach the core.
template <class Work>
TRITONSERVER_Error* Guarded(const Work& work) {
  try {
    return ToError(work());
  } catch (const std::bad_alloc&) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_UNAVAILABLE, "out of memory");
  } catch (const std::exception& error) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, error.what());
  }
}

absl::StatusOr<Backend*> BackendOf(TRITONBACKEND_Model* model) {
  TRITONBACKEND_Backend* backend = nullptr;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_ModelBackend(model, &backend)));
  void* state = nullptr;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_BackendState(backend, &state)));
  return static_cast<Backend*>(state);
}

absl::StatusOr<LoadedDeployment*> DeploymentOf(TRITONBACKEND_Model* model) {
  void* state = nullptr;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_ModelState(model, &state)));
  return static_cast<LoadedDeployment*>(state);
}

// KIND_AUTO becomes KIND_GPU where the core sees a GPU, so that the engine decides is no error.
absl::Status TellOfGpu(TRITONBACKEND_ModelInstance* instance) {
  TRITONSERVER_InstanceGroupKind kind = TRITONSERVER_INSTANCEGROUPKIND_CPU;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_ModelInstanceKind(instance, &kind)));
  if (kind != TRITONSERVER_INSTANCEGROUPKIND_GPU) return absl::OkStatus();
  const char* name = nullptr;
  SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_ModelInstanceName(instance, &name)));
  Log(TRITONSERVER_LOG_INFO,
      absl::StrCat("instance '", name,
                   "' is of KIND_GPU: the option device decides what its engine runs on"));
  return absl::OkStatus();
}

}  // namespace
}  // namespace siglip::triton

using siglip::triton::Backend;
using siglip::triton::BackendOf;
using siglip::triton::DeploymentOf;
using siglip::triton::FromError;
using siglip::triton::Guarded;
using siglip::triton::LoadedDeployment;

SIGLIP_EXPORT TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend* backend) {
  return Guarded([&]() -> absl::Status {
    SIGLIP_ASSIGN_OR_RETURN(auto state, Backend::Create(siglip::triton::ThisBackend(), backend));
    SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_BackendSetState(backend, state.get())));
    state.release();
    return absl::OkStatus();
  });
}

SIGLIP_EXPORT TRITONSERVER_Error* TRITONBACKEND_Finalize(TRITONBACKEND_Backend* backend) {
  return Guarded([&]() -> absl::Status {
    void* state = nullptr;
    SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_BackendState(backend, &state)));
    std::unique_ptr<Backend>(static_cast<Backend*>(state)).reset();
    return FromError(TRITONBACKEND_BackendSetState(backend, nullptr));
  });
}

// Of a model without instance_group: an instance per core, on the CPU.
SIGLIP_EXPORT TRITONSERVER_Error* TRITONBACKEND_GetBackendAttribute(
    TRITONBACKEND_Backend*, TRITONBACKEND_BackendAttribute* backend_attributes) {
  const auto cores = std::max(1u, std::thread::hardware_concurrency());
  return TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
      backend_attributes, TRITONSERVER_INSTANCEGROUPKIND_CPU, cores, nullptr, 0);
}

SIGLIP_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model* model) {
  return Guarded([&]() -> absl::Status {
    SIGLIP_ASSIGN_OR_RETURN(Backend* const backend, BackendOf(model));
    SIGLIP_ASSIGN_OR_RETURN(auto state, LoadedDeployment::Create(*backend, model));
    SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_ModelSetState(model, state.get())));
    state.release();
    return absl::OkStatus();
  });
}

// Also called for a model whose ModelInitialize failed.
SIGLIP_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model* model) {
  return Guarded([&]() -> absl::Status {
    SIGLIP_ASSIGN_OR_RETURN(LoadedDeployment* const deployment, DeploymentOf(model));
    std::unique_ptr<LoadedDeployment>(deployment).reset();
    return FromError(TRITONBACKEND_ModelSetState(model, nullptr));
  });
}

SIGLIP_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(
    TRITONBACKEND_ModelInstance* instance) {
  return Guarded([&] { return siglip::triton::TellOfGpu(instance); });
}

SIGLIP_EXPORT TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests,
    const uint32_t request_count) {
  return Guarded([&]() -> absl::Status {
    TRITONBACKEND_Model* model = nullptr;
    SIGLIP_RETURN_IF_ERROR(FromError(TRITONBACKEND_ModelInstanceModel(instance, &model)));
    SIGLIP_ASSIGN_OR_RETURN(LoadedDeployment* const deployment, DeploymentOf(model));
    return deployment->Execute(instance, requests, request_count);
  });
}
