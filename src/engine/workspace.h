#pragma once

// Memory and threads of one pass, sized once.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"

namespace siglip {

// Sees [rows, width] after each named stage. For tests that name the first stage that differs.
using StageObserver = std::function<void(std::string_view stage, const float* values,
                                         std::int64_t rows, std::int64_t width)>;

// Changes what a layer has left, a row of it.
using LayerChange = std::function<void(std::span<float> row)>;

struct WorkspaceSizes {
  std::size_t hidden = 0;   // tokens of a pass x width
  std::size_t wide = 0;     // tokens x max(3 width, MLP width)
  std::size_t head = 0;     // what a tower's head needs beside
  std::size_t packed = 0;   // what a product packs of its left side
  std::size_t scratch = 0;  // of one worker's attention

  static WorkspaceSizes Max(const WorkspaceSizes& a, const WorkspaceSizes& b);
};

// Thread-compatible: one pass at a time.
struct Workspace {
  Workspace(const WorkspaceSizes& sizes, int num_threads)
      : x(sizes.hidden),
        y(sizes.hidden),
        normed(sizes.hidden),
        wide(sizes.wide),
        head(sizes.head),
        packed(sizes.packed),
        scratch(sizes.scratch * static_cast<std::size_t>(num_threads)),
        team(num_threads) {}

  std::size_t bytes() const {
    return sizeof(float) * (x.size() + y.size() + normed.size() + wide.size() + head.size() +
                            packed.size() + scratch.size());
  }
  void Observe(std::string_view stage, const float* values, std::int64_t rows,
               std::int64_t width) const {
    if (observer) observer(stage, values, rows, width);
  }

  // [rows, width], rows `stride` apart.
  void Change(float* values, std::int64_t rows, std::int64_t width, std::int64_t stride) const {
    if (!after_layer) return;
    for (std::int64_t row = 0; row < rows; ++row) {
      after_layer({values + row * stride, static_cast<std::size_t>(width)});
    }
  }

  AlignedBuffer<float> x;       // the residual stream
  AlignedBuffer<float> y;       // the stream between attention and MLP
  AlignedBuffer<float> normed;  // layer norm's and attention's output
  AlignedBuffer<float> wide;    // q, k, v; then the MLP's middle
  AlignedBuffer<float> head;
  AlignedBuffer<float> packed;
  AlignedBuffer<float> scratch;
  ThreadTeam team;
  StageObserver observer;
  // After each linear layer, with its sums, each layer norm and attention: for a measure of what a
  // format costs.
  LayerChange after_layer;
};

inline WorkspaceSizes WorkspaceSizes::Max(const WorkspaceSizes& a, const WorkspaceSizes& b) {
  const auto larger = [](std::size_t p, std::size_t q) { return p > q ? p : q; };
  return {larger(a.hidden, b.hidden), larger(a.wide, b.wide), larger(a.head, b.head),
          larger(a.packed, b.packed), larger(a.scratch, b.scratch)};
}

}  // namespace siglip
