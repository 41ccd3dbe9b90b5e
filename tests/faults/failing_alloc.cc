// LD_PRELOAD: allocations of SIGLIP_FAIL_FROM bytes and more fail while the file SIGLIP_FAIL_WHILE exists.

#include <dlfcn.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>

namespace {

std::size_t FailFrom() {
  static const std::size_t bytes = [] {
    const char* text = std::getenv("SIGLIP_FAIL_FROM");
    return text == nullptr ? static_cast<std::size_t>(-1) : std::strtoull(text, nullptr, 10);
  }();
  return bytes;
}

bool Fails(std::size_t bytes) {
  if (bytes < FailFrom()) return false;
  static const char* const file = std::getenv("SIGLIP_FAIL_WHILE");
  return file != nullptr && ::access(file, F_OK) == 0;
}

template <class Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) void* malloc(std::size_t bytes) noexcept {
  static auto* const next = Next<void*(std::size_t)>("malloc");
  if (!Fails(bytes)) return next(bytes);
  errno = ENOMEM;
  return nullptr;
}

__attribute__((visibility("default"))) void* aligned_alloc(std::size_t alignment,
                                                           std::size_t bytes) noexcept {
  static auto* const next = Next<void*(std::size_t, std::size_t)>("aligned_alloc");
  if (!Fails(bytes)) return next(alignment, bytes);
  errno = ENOMEM;
  return nullptr;
}

__attribute__((visibility("default"))) int posix_memalign(void** memory, std::size_t alignment,
                                                          std::size_t bytes) noexcept {
  static auto* const next = Next<int(void**, std::size_t, std::size_t)>("posix_memalign");
  return Fails(bytes) ? ENOMEM : next(memory, alignment, bytes);
}

__attribute__((visibility("default"))) void* realloc(void* memory, std::size_t bytes) noexcept {
  static auto* const next = Next<void*(void*, std::size_t)>("realloc");
  if (!Fails(bytes)) return next(memory, bytes);
  errno = ENOMEM;
  return nullptr;
}

}  // extern "C"
