#pragma once

// A CudaResizer without a GPU: the same plans, buffers of the same sizes, and the kernel's own
// arithmetic.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "engine/cuda/resize_plan.h"

namespace siglip::cuda {

inline void RunOnHost(const ResizePassArgs& args) {
  for (std::int32_t row = 0; row < args.rows; ++row) {
    for (std::int32_t byte = 0; byte < args.row_bytes; ++byte) {
      args.out[static_cast<std::int64_t>(row) * args.row_bytes + byte] =
          args.axis == ResizeAxis::kHorizontal
              ? ResizedByte<ResizeAxis::kHorizontal>(args, row, byte)
              : ResizedByte<ResizeAxis::kVertical>(args, row, byte);
    }
  }
}

// Of no filter: windows that move forwards, taps of both signs from -1/2 to 3/2 of their share of
// 1, so that sums fit in int32.
inline ResizePass RandomPass(std::int32_t in_size, std::int32_t out_size, std::uint32_t seed) {
  std::minstd_rand random(seed);
  ResizePass pass;
  pass.in_size = in_size;
  pass.out_size = out_size;
  pass.num_taps = std::min(in_size, 5 + 4 * (in_size / out_size));
  const std::int32_t largest = (1 << kCoefficientBits) / pass.num_taps;
  pass.taps.resize(static_cast<std::size_t>(pass.num_taps) * static_cast<std::size_t>(out_size));
  for (std::int32_t o = 0; o < out_size; ++o) {
    const auto first = static_cast<std::int32_t>(std::int64_t{o} * in_size / out_size);
    const std::int32_t most = std::min(pass.num_taps, in_size - first);
    pass.first.push_back(first);
    pass.count.push_back(most - static_cast<std::int32_t>(random() % 2) * (most > 1));
    for (std::int32_t j = 0; j < pass.count.back(); ++j) {
      pass.taps[static_cast<std::size_t>(j) * static_cast<std::size_t>(out_size) +
                static_cast<std::size_t>(o)] =
          static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(2 * largest)) -
          largest / 2;
    }
  }
  return pass;
}

inline std::vector<std::uint8_t> MadeUpPicture(std::int32_t width, std::int32_t height) {
  std::vector<std::uint8_t> rgb(std::size_t{3} * static_cast<std::size_t>(width) *
                                static_cast<std::size_t>(height));
  for (std::size_t i = 0; i < rgb.size(); ++i) rgb[i] = static_cast<std::uint8_t>((i * i) >> 7);
  return rgb;
}

// A picture, its passes to `side` x `side`, and where it goes.
struct ResizeCase {
  ResizeCase(std::int32_t width, std::int32_t height, std::int32_t side, bool vertical_first)
      : horizontal(RandomPass(width, side, 1)),
        vertical(RandomPass(height, side, 2)),
        rgb(MadeUpPicture(width, height)),
        out(std::size_t{3} * static_cast<std::size_t>(side) * static_cast<std::size_t>(side)),
        resize({.rgb = rgb.data(),
                .width = width,
                .height = height,
                .horizontal = &horizontal,
                .vertical = &vertical,
                .vertical_first = vertical_first,
                .out = out.data()}) {}
  ResizeCase(const ResizeCase&) = delete;
  ResizeCase& operator=(const ResizeCase&) = delete;

  const ResizePass horizontal, vertical;
  const std::vector<std::uint8_t> rgb;
  std::vector<std::uint8_t> out;
  RgbResize resize;
};

class HostResizer final : public RgbResizer {
 public:
  explicit HostResizer(std::int64_t image_size) : capacity_(CapacityFor(image_size)) {}

  bool Takes(std::int64_t width, std::int64_t height) const override {
    return IsResizable(width, height);
  }
  absl::StatusOr<bool> Resize(const RgbResize& resize) override {
    if (!error.ok()) return error;
    if (busy) return false;
    const std::optional<ResizePlan> plan = PlanResize(resize, capacity_);
    if (!plan) return false;
    // As large as the plan says, so that a sanitizer sees what goes past it.
    const auto* picture = reinterpret_cast<const std::byte*>(resize.rgb);
    std::vector<std::byte> copy(picture, picture + plan->bytes.picture);
    std::vector<std::byte> tables(static_cast<std::size_t>(plan->bytes.tables));
    std::vector<std::byte> middle(static_cast<std::size_t>(plan->bytes.middle));
    std::vector<std::byte> out(static_cast<std::size_t>(plan->bytes.out));
    WriteTables(*plan, tables.data());
    for (const PlannedPass& pass : plan->passes) {
      RunOnHost(ArgsOf(pass, {tables.data(), copy.data(), middle.data(), out.data()}));
    }
    std::copy(out.begin(), out.end(), reinterpret_cast<std::byte*>(resize.out));
    if (break_byte) resize.out[static_cast<std::size_t>(*break_byte)] ^= 1;
    ++resized;
    return true;
  }
  int num_places() const override { return 2; }

  bool busy = false;
  absl::Status error;
  std::optional<std::int64_t> break_byte;  // of what is resized
  int resized = 0;

 private:
  const ResizeCapacity capacity_;
};

}  // namespace siglip::cuda
