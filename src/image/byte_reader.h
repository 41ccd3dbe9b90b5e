#pragma once

// Reads a byte string front to back as Pillow's plugins read a file: reads past the end are short.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace siglip {

inline std::uint32_t U8(std::string_view s, std::size_t at) {
  return static_cast<std::uint8_t>(s[at]);
}
inline std::uint32_t U16Be(std::string_view s, std::size_t at) {
  return U8(s, at) << 8 | U8(s, at + 1);
}
inline std::uint32_t U32Be(std::string_view s, std::size_t at) {
  return U16Be(s, at) << 16 | U16Be(s, at + 2);
}
inline std::uint32_t U16Le(std::string_view s, std::size_t at) {
  return U8(s, at + 1) << 8 | U8(s, at);
}
inline std::uint32_t U32Le(std::string_view s, std::size_t at) {
  return U16Le(s, at + 2) << 16 | U16Le(s, at);
}

// Thread-compatible. Borrows the bytes.
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

  std::size_t position() const { return position_; }
  std::size_t remaining() const { return bytes_.size() - position_; }
  void Seek(std::size_t position) { position_ = std::min(position, bytes_.size()); }

  // Up to `size` bytes, as file.read(size) gives them.
  std::string_view Read(std::size_t size) {
    const std::string_view part = bytes_.substr(position_, size);
    position_ += part.size();
    return part;
  }

  // Exactly `size` bytes or nothing (ImageFile._safe_read).
  std::optional<std::string_view> ReadExactly(std::size_t size) {
    if (size > remaining()) return std::nullopt;
    return Read(size);
  }

 private:
  std::string_view bytes_;
  std::size_t position_ = 0;
};

}  // namespace siglip
