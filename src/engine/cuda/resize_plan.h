#pragma once

// What a resize on a GPU does, without a GPU: which passes from which buffer to which. A
// CudaResizer executes it; so does its test, on the CPU, with the kernel's own arithmetic.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/rgb_resizer.h"
#include "kernels/cuda/resize_pass.h"

namespace siglip::cuda {

// Pictures that a GPU resizes. A camera's 12 million pixels are among them; what is larger takes
// the CPU 50 ms and more to decode, so that resizing it is no matter.
inline constexpr std::int64_t kMaxResizePixels = 16 << 20;
// Of each side: bounds what lies between the passes, and their tables.
inline constexpr std::int64_t kMaxResizeSide = 16384;

bool IsResizable(std::int64_t width, std::int64_t height);

// Bytes of each buffer.
struct ResizeCapacity {
  std::int64_t tables = 0;
  std::int64_t picture = 0;
  std::int64_t middle = 0;  // between the passes
  std::int64_t out = 0;
};
// Of any picture that IsResizable, to image_size x image_size by a bicubic filter or a narrower
// one.
ResizeCapacity CapacityFor(std::int64_t image_size);

enum class ResizeBuffer { kPicture, kMiddle, kOut };

struct PlannedPass {
  ResizeAxis axis = ResizeAxis::kHorizontal;
  const ResizePass* pass = nullptr;
  std::int64_t table_offset = 0;  // bytes: first, count, taps
  ResizeBuffer in = ResizeBuffer::kPicture;
  ResizeBuffer out = ResizeBuffer::kOut;
  std::int32_t in_row_bytes = 0;
  std::int32_t rows = 0;  // of the output
  std::int32_t row_bytes = 0;
};

struct ResizePlan {
  std::vector<PlannedPass> passes;  // one or two
  ResizeCapacity bytes;             // that it needs
};

// Borrows the passes of `resize`. Null if it does not fit.
std::optional<ResizePlan> PlanResize(const RgbResize& resize, const ResizeCapacity& capacity);

// Writes plan.bytes.tables bytes.
void WriteTables(const ResizePlan& plan, std::byte* tables);

struct ResizeMemory {
  const std::byte* tables = nullptr;
  const std::byte* picture = nullptr;
  std::byte* middle = nullptr;
  std::byte* out = nullptr;
};
ResizePassArgs ArgsOf(const PlannedPass& pass, const ResizeMemory& memory);

}  // namespace siglip::cuda
