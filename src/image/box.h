#pragma once

// The boxes of ISO base media files: JPEG 2000's and AVIF's.

#include <cstdint>
#include <optional>
#include <string_view>

#include "image/byte_reader.h"

namespace siglip {

struct BoxHead {
  std::string_view type;
  std::uint64_t size = 0;  // of head and body, as the file says; 0: to the file's end
  std::uint64_t head_bytes = 0;
};

// The reader then is at the body. Nothing if the file ends in the head.
inline std::optional<BoxHead> ReadBoxHead(ByteReader& reader) {
  const std::optional<std::string_view> head = reader.ReadExactly(8);
  if (!head) return std::nullopt;
  BoxHead box = {.type = head->substr(4), .size = U32Be(*head, 0), .head_bytes = 8};
  if (box.size != 1) return box;
  const std::optional<std::string_view> wide = reader.ReadExactly(8);
  if (!wide) return std::nullopt;
  box.size = std::uint64_t{U32Be(*wide, 0)} << 32 | U32Be(*wide, 4);
  box.head_bytes = 16;
  return box;
}

}  // namespace siglip
