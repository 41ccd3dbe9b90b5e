#include "base/aligned_buffer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

namespace siglip {
namespace {

// Two huge pages of x86 and of most ARM: from here on a whole one lies within.
constexpr std::size_t kLargeBytes = std::size_t{4} << 20;

}  // namespace

void* AllocateBuffer(std::size_t bytes) {
  void* memory = std::aligned_alloc(kBufferAlignment, bytes);
  if (memory != nullptr && bytes >= kLargeBytes) {
    // Memory fresh from the system is zeroed page by page as it is touched. In pages of 4 kB that
    // is a quarter of the time of a 12-megapixel JPEG. Only a wish: a system that refuses is as
    // before.
    const auto begin = reinterpret_cast<std::uintptr_t>(memory);
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const std::uintptr_t first = (begin + page - 1) / page * page;
    madvise(reinterpret_cast<void*>(first), begin + bytes - first, MADV_HUGEPAGE);
  }
  return memory;
}

}  // namespace siglip
