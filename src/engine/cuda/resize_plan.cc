#include "engine/cuda/resize_plan.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace siglip::cuda {
namespace {

constexpr std::int64_t kEntryBytes = sizeof(std::int32_t);

std::int64_t TableEntries(const ResizePass& pass) {
  return std::int64_t{2 + pass.num_taps} * pass.out_size;
}

const std::byte* BytesOf(const ResizeMemory& memory, ResizeBuffer buffer) {
  switch (buffer) {
    case ResizeBuffer::kPicture:
      return memory.picture;
    case ResizeBuffer::kMiddle:
      return memory.middle;
    case ResizeBuffer::kOut:
      break;
  }
  return memory.out;
}

bool Fits(const ResizeCapacity& bytes, const ResizeCapacity& capacity) {
  return bytes.tables <= capacity.tables && bytes.picture <= capacity.picture &&
         bytes.middle <= capacity.middle && bytes.out <= capacity.out;
}

}  // namespace

bool IsResizable(std::int64_t width, std::int64_t height) {
  return width >= 1 && height >= 1 && width <= kMaxResizeSide && height <= kMaxResizeSide &&
         width * height <= kMaxResizePixels;
}

ResizeCapacity CapacityFor(std::int64_t image_size) {
  // A bicubic filter has 2 ceil(2 max(side / image_size, 1)) + 1 taps at most, and there are two
  // more entries for each output: at most 4 side + 7 image_size in all. The sides' sum is largest
  // where one is.
  const std::int64_t sides = kMaxResizeSide + kMaxResizePixels / kMaxResizeSide;
  return {.tables = (4 * sides + 2 * 7 * image_size) * kEntryBytes,
          .picture = 3 * kMaxResizePixels,
          .middle = 3 * kMaxResizeSide * image_size,
          .out = 3 * image_size * image_size};
}

std::optional<ResizePlan> PlanResize(const RgbResize& resize, const ResizeCapacity& capacity) {
  SIGLIP_CHECK(resize.horizontal != nullptr || resize.vertical != nullptr);
  if (!IsResizable(resize.width, resize.height)) return std::nullopt;
  ResizePlan plan;
  std::int32_t width = resize.width;
  std::int32_t height = resize.height;
  plan.bytes.picture = std::int64_t{3} * width * height;
  plan.bytes.out = std::int64_t{3} * resize.out_width() * resize.out_height();
  const auto add = [&](ResizeAxis axis, const ResizePass* pass) {
    if (pass == nullptr) return;
    PlannedPass planned;
    planned.axis = axis;
    planned.pass = pass;
    planned.table_offset = plan.bytes.tables;
    planned.in_row_bytes = 3 * width;
    (axis == ResizeAxis::kHorizontal ? width : height) = pass->out_size;
    planned.rows = height;
    planned.row_bytes = 3 * width;
    plan.bytes.tables += TableEntries(*pass) * kEntryBytes;
    plan.passes.push_back(planned);
  };
  if (resize.vertical_first) add(ResizeAxis::kVertical, resize.vertical);
  add(ResizeAxis::kHorizontal, resize.horizontal);
  if (!resize.vertical_first) add(ResizeAxis::kVertical, resize.vertical);
  if (plan.passes.size() == 2) {
    plan.passes[0].out = ResizeBuffer::kMiddle;
    plan.passes[1].in = ResizeBuffer::kMiddle;
    plan.bytes.middle = std::int64_t{plan.passes[0].rows} * plan.passes[0].row_bytes;
  }
  if (!Fits(plan.bytes, capacity)) return std::nullopt;
  return plan;
}

void WriteTables(const ResizePlan& plan, std::byte* tables) {
  for (const PlannedPass& planned : plan.passes) {
    std::byte* to = tables + planned.table_offset;
    for (const std::vector<std::int32_t>* values :
         {&planned.pass->first, &planned.pass->count, &planned.pass->taps}) {
      std::memcpy(to, values->data(), values->size() * sizeof(std::int32_t));
      to += values->size() * sizeof(std::int32_t);
    }
  }
}

ResizePassArgs ArgsOf(const PlannedPass& planned, const ResizeMemory& memory) {
  const auto* first = reinterpret_cast<const std::int32_t*>(memory.tables + planned.table_offset);
  const std::int32_t out_size = planned.pass->out_size;
  std::byte* out = planned.out == ResizeBuffer::kMiddle ? memory.middle : memory.out;
  return {.axis = planned.axis,
          .in = reinterpret_cast<const std::uint8_t*>(BytesOf(memory, planned.in)),
          .in_row_bytes = planned.in_row_bytes,
          .first = first,
          .count = first + out_size,
          .taps = first + 2 * static_cast<std::ptrdiff_t>(out_size),
          .out_size = out_size,
          .out = reinterpret_cast<std::uint8_t*>(out),
          .rows = planned.rows,
          .row_bytes = planned.row_bytes};
}

}  // namespace siglip::cuda
