#include "base/dynamic_library.h"

#include <dlfcn.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace siglip {

absl::StatusOr<DynamicLibrary> DynamicLibrary::Open(const std::string& name) {
  DynamicLibrary library;
  library.name_ = name;
  library.handle_ = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library.handle_ == nullptr) return absl::FailedPreconditionError(::dlerror());
  return library;
}

DynamicLibrary::DynamicLibrary(DynamicLibrary&& other) noexcept { *this = std::move(other); }

DynamicLibrary& DynamicLibrary::operator=(DynamicLibrary&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(handle_, other.handle_);
  std::swap(missing_, other.missing_);
  return *this;
}

DynamicLibrary::~DynamicLibrary() {
  if (handle_ != nullptr) ::dlclose(handle_);
}

absl::Status DynamicLibrary::Complete() const {
  if (missing_.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(name_, ": expected ", missing_, " in it"));
}

void* DynamicLibrary::FindAddress(const char* symbol) {
  void* const address = ::dlsym(handle_, symbol);
  if (address == nullptr) missing_ = symbol;
  return address;
}

}  // namespace siglip
