#pragma once

// A request's body in one piece, with zero bytes behind it: the JSON parser reads past the end in
// whole vectors, and the zeros keep what it sees there from being taken for digits.

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string_view>

namespace siglip {

// Thread-compatible. Grows like a vector but does not initialise what it reserves, so that memory
// is taken from the system only as bytes arrive. Allocation failure throws std::bad_alloc.
class PaddedBody {
 public:
  // simdjson 3 asks for 64 bytes (SIMDJSON_PADDING).
  static constexpr std::size_t kPadding = 64;

  PaddedBody() = default;
  explicit PaddedBody(std::string_view bytes) { Append(bytes); }

  std::size_t size() const { return size_; }
  std::string_view view() const { return {data_.get(), size_}; }
  const char* data() const { return data_.get(); }

  void Reserve(std::size_t capacity) {
    if (capacity <= capacity_ && data_ != nullptr) return;
    auto* grown = static_cast<char*>(std::realloc(data_.get(), capacity + kPadding));
    if (grown == nullptr) throw std::bad_alloc();
    static_cast<void>(data_.release());
    data_.reset(grown);
    capacity_ = capacity;
    std::memset(data_.get() + size_, 0, kPadding);
  }

  void Append(std::string_view bytes) {
    std::span<char> room = Extend(bytes.size());
    if (!bytes.empty()) std::memcpy(room.data(), bytes.data(), bytes.size());
  }

  // `count` more bytes, for the caller to fill.
  std::span<char> Extend(std::size_t count) {
    if (size_ + count > capacity_ || data_ == nullptr) {
      const std::size_t doubled = capacity_ * 2;
      Reserve(size_ + count > doubled ? size_ + count : doubled);
    }
    std::span<char> room(data_.get() + size_, count);
    size_ += count;
    std::memset(data_.get() + size_, 0, kPadding);
    return room;
  }

  // Gives back the last `count` bytes that Extend added.
  void Shrink(std::size_t count) {
    size_ -= count;
    std::memset(data_.get() + size_, 0, kPadding);
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::unique_ptr<char, Free> data_;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

}  // namespace siglip
