#pragma once

// C = epilogue(A * W^T) for weights that are packed once. A, C row-major, float32. The product is
// computed in float32, in integers of 16 or 8 bits, or in bfloat16.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"

namespace siglip {

// What the factors of a product are stored as.
enum class GemmFormat {
  kFp32,
  // Each row of A and of W by a factor of its own and rounded to integers of 16 bits; sums of a
  // block of K are exact integers of 32 bits, blocks are added in float32. The factor is the
  // largest for which no element exceeds a limit (Int16Limits in gemm_kernels.h) and the part of
  // the row in any block of K has a norm of at most 2^15.5: then by Cauchy-Schwarz no sum in any
  // order can leave 32 bits. About 13 bits are left to each factor. A row with a value that is not
  // finite gives NaN.
  kInt16,
  // The same in 8 bits: a row of W as integers of at most 127, one of A as its range, from the
  // least to the largest element and zero, in 255 steps. No sum of a block comes near 32 bits.
  // Only where GemmHasFormat() says so.
  kInt8,
  // Elements rounded to the nearest bfloat16, sums in float32. Only where GemmHasFormat() says so.
  kBf16,
};
// Whether the instruction set in use multiplies such factors: kInt8 needs VNNI or AMX, kBf16 AMX.
bool GemmHasFormat(GemmFormat format);

// "fp32", "int16", "int8", "bf16".
std::string GemmFormatName(GemmFormat format);

// How PackedMatrix lays out memory on the instruction set in use, in letters, digits and dashes.
// Where it is equal, matrices may borrow each other's memory.
std::string PackedLayoutName(GemmFormat format);

// Sums run over blocks of so many steps, each block from zero, blocks added in order: the rounding
// of an element depends on nothing but its row of A, its row of W and the instruction set. 256 x 32
// floats of W are 32 kB: they fit the first-level cache beside A's.
inline constexpr std::int64_t kGemmBlockK = 256;
// In other formats: 576 integers of 16 bits, half the width of so400m, short enough for 13 bits,
// long enough that adding blocks does not show (192 steps: 3 % slower; 384 and more: no faster).
// 1152 of 8 bits.
inline constexpr std::int64_t kGemmBlockSteps = 288;
// Steps of a block of K, for the instruction set in use. What float32 loses in long sums is nothing
// beside what bfloat16 has lost, whose blocks are four times as long; int16's are twice as long
// where halves of them are multiplied (strassen-inl.h).
std::int64_t GemmBlockSteps(GemmFormat format);

// W [n,k] cut into blocks of K, each block into panels of GemmPanelWidth() rows of W, stored
// k-major, so that the kernel reads memory in one direction. Counted in steps of four bytes: one
// float, two integers of 16 bits or bfloat16, four integers of 8 bits (the last may be in part
// empty). The last panel is as narrow as whole vectors allow; its surplus is zero. For AMX a panel
// of int16 is a row of pairs of tiles (amx-inl.h). Thread-compatible.
class PackedMatrix {
 public:
  // Writes rows [first, first + count) of what is being set to `to` [count,k].
  using ReadRows = std::function<void(std::int64_t first, std::int64_t count, float* to)>;

  PackedMatrix() = default;
  // Its own memory. Rows that are never set are undefined.
  PackedMatrix(std::int64_t n, std::int64_t k, GemmFormat format = GemmFormat::kFp32);
  // Borrows the memory() of an equal matrix, which must outlive this one. REQUIRES: MemoryFloats()
  // floats, 64-byte aligned, of the same PackedLayoutName(). For reading only.
  PackedMatrix(std::int64_t n, std::int64_t k, GemmFormat format, std::span<const float> memory);

  static std::size_t MemoryFloats(std::int64_t n, std::int64_t k, GemmFormat format);

  // Rows [first, first + count) of W from `rows` [count,k]. REQUIRES: the memory is its own.
  void SetRows(std::int64_t first, std::int64_t count, const float* rows);
  // The same, a panel at a time; `read` is called by several workers at once and must not throw.
  void SetRows(ThreadTeam& team, std::int64_t first, std::int64_t count, const ReadRows& read);

  std::int64_t n() const { return n_; }
  std::int64_t k() const { return k_; }
  GemmFormat format() const { return format_; }
  // Whole ones for tiles of AMX: what is past K is zero.
  std::int64_t steps() const { return steps_; }
  // Steps of a block of K.
  std::int64_t block_steps() const { return block_steps_; }
  std::int64_t padded_n() const { return padded_n_; }
  std::span<const float> memory() const { return memory_; }
  std::size_t bytes() const { return memory_.size() * sizeof(float); }
  // The panel of columns of C [column, column + panel width) for the steps from `first`, which
  // start a block of `block` steps. REQUIRES: `column` starts a panel.
  const float* Panel(std::int64_t column, std::int64_t first, std::int64_t block) const {
    return memory_.data() + first * padded_n_ + column * block;
  }
  // Integers only, each [padded_n]: an integer times its row's scale is the weight; for the
  // kernels, negated sums over a block of K, of cross products (kInt16) or of the integers (kInt8).
  const float* scales() const { return memory_.data() + padded_n_ * steps(); }
  const std::int32_t* cross_products(std::int64_t block) const {
    return reinterpret_cast<const std::int32_t*>(scales() + padded_n_ * (1 + block));
  }

 private:
  // rows [count,k] of W, from `column` -> what they are multiplied as [count, steps], and their
  // scales and sums. Not for kFp32.
  void SetFactors(std::int64_t column, std::int64_t count, const float* rows, float* factors);
  // Columns [column, column + count) of C, which are in one panel. rows: [count,k] of W; factors:
  // [count, steps], unused for kFp32.
  void SetColumns(std::int64_t column, std::int64_t count, const float* rows, float* factors);

  std::int64_t n_ = 0;
  std::int64_t k_ = 0;
  GemmFormat format_ = GemmFormat::kFp32;
  std::int64_t steps_ = 0;
  std::int64_t block_steps_ = 0;
  std::int64_t padded_n_ = 0;
  AlignedBuffer<float> owned_;
  std::span<const float> memory_;  // panels, then what integers add: owned_, or borrowed
};

struct GemmCall {
  std::int64_t m = 0;
  const float* a = nullptr;  // [m, w->k()], rows a_stride apart
  std::int64_t a_stride = 0;
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
