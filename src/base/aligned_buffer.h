#pragma once

// A fixed-size array of trivial elements, 64-byte aligned (one cache line, one AVX-512 register).
// Large ones ask the system for huge pages.

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <type_traits>

namespace siglip {

inline constexpr std::size_t kBufferAlignment = 64;

// `bytes` of memory for std::free, or nothing. REQUIRES: bytes is a multiple of kBufferAlignment.
void* AllocateBuffer(std::size_t bytes);

// Thread-compatible. Elements are not initialised. Allocation failure throws std::bad_alloc.
template <class T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size) : size_(size) {
    if (size == 0) return;
    if (size > (static_cast<std::size_t>(-1) - kBufferAlignment) / sizeof(T))
      throw std::bad_alloc();
    const std::size_t bytes =
        (size * sizeof(T) + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
    void* memory = AllocateBuffer(bytes);
    if (memory == nullptr) throw std::bad_alloc();
    data_.reset(static_cast<T*>(memory));
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T& operator[](std::size_t i) { return data_.get()[i]; }
  const T& operator[](std::size_t i) const { return data_.get()[i]; }
  std::span<T> span() { return {data(), size_}; }
  std::span<const T> span() const { return {data(), size_}; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace siglip
