#include <dlfcn.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/cuda/module.h"

namespace siglip {
namespace cuda {
namespace {

constexpr char kModule[] = "libsiglip_cuda.so";

// Beside the program, and where it was built.
std::vector<std::string> Places() {
  std::vector<std::string> places;
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) places.push_back((program.parent_path() / kModule).string());
  places.push_back(absl::StrCat(SIGLIP_CUDA_MODULE_FOLDER, "/", kModule));
  return places;
}

}  // namespace

absl::StatusOr<const ModuleFunctions*> LoadModule() {
  std::error_code error;
  for (const std::string& place : Places()) {
    if (!std::filesystem::exists(place, error)) continue;
    void* const module = ::dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (module == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("the GPU engine cannot be loaded: ", ::dlerror()));
    }
    const auto entry = reinterpret_cast<ModuleEntry>(::dlsym(module, kModuleEntry));
    if (entry != nullptr) return entry();
    return absl::FailedPreconditionError(
        absl::StrCat(place, ": expected ", kModuleEntry, " in it"));
  }
  return absl::FailedPreconditionError(
      "built without CUDA (configure with -DSIGLIP_CUDA=ON where the CUDA toolkit is)");
}

}  // namespace cuda

absl::StatusOr<std::vector<GpuDevice>> ListGpuDevices() {
  const auto functions = cuda::LoadModule();
  if (!functions.ok()) return functions.status();
  return (*functions)->list_devices();
}

}  // namespace siglip
