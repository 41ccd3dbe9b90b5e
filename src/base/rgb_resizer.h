#pragma once

// A device that resizes pictures with the pixels of src/image: it is given the passes, so that what
// a filter is stays in one place.

#include <cstdint>

#include "absl/status/statusor.h"
#include "base/resize_pass.h"

namespace siglip {

// Borrows everything for the call.
struct RgbResize {
  const std::uint8_t* rgb = nullptr;  // [height, width, 3]
  std::int32_t width = 0;
  std::int32_t height = 0;
  const ResizePass* horizontal = nullptr;  // null: the width stays
  const ResizePass* vertical = nullptr;    // null: the height stays; never both
  bool vertical_first = false;
  std::uint8_t* out = nullptr;  // [out_height(), out_width(), 3]

  std::int32_t out_width() const { return horizontal == nullptr ? width : horizontal->out_size; }
  std::int32_t out_height() const { return vertical == nullptr ? height : vertical->out_size; }
};

// Thread-safe.
class RgbResizer {
 public:
  virtual ~RgbResizer() = default;

  // Whether pictures of this size are taken at all.
  virtual bool Takes(std::int64_t width, std::int64_t height) const = 0;
  // False, and nothing is written, if the picture is not taken or every place is in use: the caller
  // resizes it itself, nobody waits. An error is a lost device.
  virtual absl::StatusOr<bool> Resize(const RgbResize& resize) = 0;
  // Calls that run side by side; one after the other they take turns.
  virtual int num_places() const = 0;
};

}  // namespace siglip
