#include "engine/cuda/library_attention.h"

#include <dlfcn.h>

#include <filesystem>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace siglip::cuda {
namespace {

constexpr char kModule[] = "libsiglip_cudnn.so";

// Of the shared library that this code is in.
std::filesystem::path OwnFolder() {
  Dl_info info;
  const auto* here = reinterpret_cast<const void*>(&OwnFolder);
  if (::dladdr(here, &info) == 0 || info.dli_fname == nullptr) return {};
  return std::filesystem::path(info.dli_fname).parent_path();
}

}  // namespace

absl::StatusOr<const LibraryAttentionFunctions*> LoadLibraryAttention() {
  const std::string path = (OwnFolder() / kModule).string();
  void* const module = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) return absl::UnavailableError(absl::StrCat("cuDNN: ", ::dlerror()));
  const auto entry =
      reinterpret_cast<LibraryAttentionEntry>(::dlsym(module, kLibraryAttentionEntry));
  if (entry == nullptr) {
    return absl::UnavailableError(
        absl::StrCat(path, ": expected ", kLibraryAttentionEntry, " in it"));
  }
  const LibraryAttentionFunctions* const functions = entry();
  if (std::string_view(functions->build) == SIGLIP_BUILD) return functions;
  return absl::UnavailableError(absl::StrCat(path, ": expected that of this build, ", SIGLIP_BUILD,
                                             ", got ", functions->build));
}

}  // namespace siglip::cuda
