#pragma once

// An operator new that a test can let fail: included once, by a program that defines TestAllocate.

#include <cstddef>
#include <cstdlib>
#include <new>

// Memory as of malloc, or null: then operator new fails.
void* TestAllocate(std::size_t bytes);

// Not inlined: GCC takes free for the wrong end of what `new` gave. The other forms call these.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  if (void* const memory = TestAllocate(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return TestAllocate(bytes);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
