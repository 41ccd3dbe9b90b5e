#pragma once

// C = epilogue(A * W^T) in fp32 for weights that are packed once. A, C row-major.

#include <cstddef>
#include <cstdint>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"

namespace siglip {

// W [n,k] cut into blocks of kGemmBlockK columns of W, each block into panels of GemmPanelWidth()
// rows of W, stored k-major, so that the kernel reads memory in one direction. The last panel is as
// narrow as whole vectors allow; its surplus is zero. Thread-compatible.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(std::int64_t n, std::int64_t k);

  // Rows [first, first + count) of W from `rows` [count,k].
  void SetRows(std::int64_t first, std::int64_t count, const float* rows);

  std::int64_t n() const { return n_; }
  std::int64_t k() const { return k_; }
  std::int64_t padded_n() const { return padded_n_; }
  std::size_t bytes() const { return data_.size() * sizeof(float); }
  // The panel of columns of C [column, column + panel width) for W's columns [k_first, ...), which
  // starts a block of `block` columns. REQUIRES: `column` starts a panel.
  const float* Panel(std::int64_t column, std::int64_t k_first, std::int64_t block) const {
    return data_.data() + k_first * padded_n_ + column * block;
  }

 private:
  std::int64_t n_ = 0;
  std::int64_t k_ = 0;
  std::int64_t padded_n_ = 0;
  AlignedBuffer<float> data_;
};

// Sums run over blocks of so many products, each block from zero, blocks added in order: the
// rounding of an element depends on nothing but its row of A, its row of W and the instruction set.
// 256 x 32 floats of W are 32 kB: they fit the first-level cache beside A's.
inline constexpr std::int64_t kGemmBlockK = 256;

// Patches of images as rows of A, never stored: row (i, y, x) of image i holds [channel][p][p] at
// (y * patch, x * patch). Pixels past per_side * patch are not read.
struct PatchRows {
  const float* const* images = nullptr;  // each [channels, image_size, image_size]
  std::int64_t channels = 0;
  std::int64_t image_size = 0;
  std::int64_t patch = 0;
  std::int64_t per_side = 0;
};

struct GemmCall {
  std::int64_t m = 0;
  const float* a = nullptr;  // [m, w->k()], rows a_stride apart; ignored if `patches` is set
  std::int64_t a_stride = 0;
  const PatchRows* patches = nullptr;
  const PackedMatrix* w = nullptr;
  float* c = nullptr;  // [m, w->n()], rows c_stride apart. Also holds the sums between K blocks
  std::int64_t c_stride = 0;
  // Epilogue, in this order; each may be absent.
  const float* bias = nullptr;      // [w->n()]
  bool gelu = false;                // tanh form
  const float* residual = nullptr;  // added to row i: residual row i % residual_period. Not c
  std::int64_t residual_stride = 0;
  std::int64_t residual_period = 0;  // 0: m
};

// Floats of scratch memory, for all workers together, that products of at most m rows and k columns
// of A need. 64-byte aligned is fastest.
std::size_t GemmScratchFloats(std::int64_t m, std::int64_t k);
// scratch: GemmScratchFloats(). REQUIRES: c_stride >= w->n(), and rows of c do not overlap.
void Gemm(ThreadTeam& team, const GemmCall& call, float* scratch);

// C's columns per panel, for the instruction set in use.
std::int64_t GemmPanelWidth();

}  // namespace siglip
