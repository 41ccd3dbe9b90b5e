#pragma once

// A library that is looked for at run time, so that building needs nothing of its makers'.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace siglip {

// Unloaded when destroyed: nothing of it may be called any more.
class DynamicLibrary {
 public:
  // `name`: a path, or a name for dlopen. FailedPrecondition with the loader's reason.
  static absl::StatusOr<DynamicLibrary> Open(const std::string& name);
  DynamicLibrary() = default;
  DynamicLibrary(DynamicLibrary&& other) noexcept;
  DynamicLibrary& operator=(DynamicLibrary&& other) noexcept;
  ~DynamicLibrary();

  // Sets the pointer to a function; null if there is none of that name, which Complete tells.
  template <class Function>
  void Find(const char* symbol, Function& function) {
    function = reinterpret_cast<Function>(FindAddress(symbol));
  }
  // FailedPrecondition names a symbol that was looked for and is not there.
  absl::Status Complete() const;

 private:
  void* FindAddress(const char* symbol);

  std::string name_;
  void* handle_ = nullptr;
  std::string missing_;
};

}  // namespace siglip
