#include <dlfcn.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/cuda/module.h"

namespace siglip {
namespace cuda {
namespace {

// From the program's folder; CMake says where `cmake --install` puts both.
constexpr char kInstalledLibraries[] = SIGLIP_INSTALLED_LIBRARIES;

std::filesystem::path ProgramFolder() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

// Of libsiglip.so or a Triton backend, which run in programs of others.
std::filesystem::path LibraryFolder() {
  ::Dl_info info = {};
  const auto here = reinterpret_cast<const void*>(&ListGpuDevices);
  if (::dladdr(here, &info) == 0 || info.dli_fname == nullptr) return {};
  return std::filesystem::path(info.dli_fname).parent_path();
}

// Beside this code's library or program, where the program's libraries are installed, or in the
// build's folder beside theirs; empty if it is in none of these.
std::string FindModule() {
  std::error_code error;
  for (const std::filesystem::path& folder : {LibraryFolder(), ProgramFolder()}) {
    if (folder.empty()) continue;
    for (const auto& place : {folder / kModule, folder / kInstalledLibraries / kModule,
                              folder.parent_path() / "engine" / "cuda" / kModule}) {
      if (std::filesystem::exists(place, error)) return place.string();
    }
  }
  return {};
}

// Asked before the module is loaded: its libraries cost a quarter of a second and 200 MB.
bool DriverIsInstalled() {
  void* const driver = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver == nullptr) return false;
  ::dlclose(driver);
  return true;
}

}  // namespace

absl::StatusOr<const ModuleFunctions*> LoadModule() {
  const std::string path = FindModule();
  if (path.empty()) return MissingModule();
  void* const module = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) {
    return absl::UnavailableError(absl::StrCat("the GPU engine cannot be loaded: ", ::dlerror()));
  }
  const auto entry = reinterpret_cast<ModuleEntry>(::dlsym(module, kModuleEntry));
  if (entry == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": expected ", kModuleEntry, " in it"));
  }
  const ModuleFunctions* const functions = entry();
  if (std::string_view(functions->build) == SIGLIP_BUILD) return functions;
  return absl::FailedPreconditionError(absl::StrCat(path, ": expected that of this build, ",
                                                    SIGLIP_BUILD, ", got ", functions->build));
}

}  // namespace cuda

absl::StatusOr<std::vector<GpuDevice>> ListGpuDevices() {
  if (cuda::FindModule().empty()) return cuda::MissingModule();
  if (!cuda::DriverIsInstalled()) return std::vector<GpuDevice>();
  const auto functions = cuda::LoadModule();
  if (!functions.ok()) return functions.status();
  return (*functions)->list_devices();
}

}  // namespace siglip
