#pragma once

// The CUDA kernels' doors. Pointers are device memory, 16-byte aligned; strides count elements.
// Every launch is asynchronous on the stream that is given, allocates nothing, and may be captured
// into a graph. What is returned is the launch's own error; a kernel's shows up later.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/device_code.h"
#include "kernels/cuda/resize_pass.h"

namespace siglip::cuda {

enum class Type { kBf16, kFp16, kFp32, kE4m3 };
inline Type TypeOf(HalfType half) { return half == HalfType::kBf16 ? Type::kBf16 : Type::kFp16; }

// softmax(q k^T / sqrt(head_dim)) v. Query j of item i is row i * tokens + query_begin + j, and
// goes to row i * query_count + j; head h is columns [h * head_dim, (h + 1) * head_dim). REQUIRES:
// head_dim is a multiple of 8 up to 128, strides are multiples of 8.
struct AttentionLaunch {
  HalfType type;
  std::int64_t items, tokens, heads, head_dim;
  std::int64_t query_begin, query_count;
  const void *q, *k, *v;
  std::int64_t row_stride;
  void* out;
  std::int64_t out_stride;
};
cudaError_t Launch(const AttentionLaunch& launch, cudaStream_t stream);

// Statistics and affine in float32, from the values in registers, mean first. y_type kE4m3: each
// row by a factor of its own, 448 / its largest; row_scales [rows] gets the inverse. REQUIRES:
// width is a multiple of 8 up to 2048.
struct NormLaunch {
  HalfType type;  // of y, unless kE4m3
  Type x_type;    // kFp32 or that of `type`
  Type y_type;
  std::int64_t rows, width;
  const void* x;
  std::int64_t x_stride;
  const float *weight, *bias;
  float eps;
  void* y;
  std::int64_t y_stride;
  float* row_scales;
};
cudaError_t Launch(const NormLaunch& launch, cudaStream_t stream);

// Rows to e4m3, as NormLaunch does. REQUIRES: width is a multiple of 8.
struct QuantiseLaunch {
  HalfType type;
  Type x_type;  // kFp32 or that of `type`
  std::int64_t rows, width;
  const void* x;
  std::int64_t x_stride;
  void* y;  // [rows, width]
  float* row_scales;
};
cudaError_t Launch(const QuantiseLaunch& launch, cudaStream_t stream);

// float32 to 16 bits.
struct RoundLaunch {
  HalfType type;
  std::int64_t count;
  const float* x;
  void* y;
};
cudaError_t Launch(const RoundLaunch& launch, cudaStream_t stream);

// Pixels [items, channels, image_size, image_size] -> y [items * per_side^2, padded]: the patches,
// [channel][y][x] each, then zeros. REQUIRES: padded is a multiple of 8.
struct PatchesLaunch {
  HalfType type;
  std::int64_t items, channels, image_size, patch, per_side, padded;
  const float* pixels;
  void* y;
};
cudaError_t Launch(const PatchesLaunch& launch, cudaStream_t stream);

// y [rows, width] = table[ids[row]] + addend[row % period]; without `ids`: the addend alone.
// REQUIRES: ids are in the table; width is a multiple of 8.
struct EmbedLaunch {
  HalfType type;  // of the table
  Type y_type;    // kFp32 or that of `type`
  std::int64_t rows, width, period;
  const std::int64_t* ids;
  const void* table;
  const float* addend;
  void* y;
};
cudaError_t Launch(const EmbedLaunch& launch, cudaStream_t stream);

// sums[item][head] = sum over t of softmax_t(scores[item][t][head]) x[item][t].
// REQUIRES: width is a multiple of 8.
struct PoolLaunch {
  HalfType type;  // of x and sums
  std::int64_t items, tokens, heads, width;
  const void* x;        // [items, tokens, width]
  const float* scores;  // [items, tokens, heads]
  void* sums;           // [items, heads, width]
};
cudaError_t Launch(const PoolLaunch& launch, cudaStream_t stream);

// One pass of a resize. Pointers need no alignment here, but the int32 ones their own. REQUIRES:
// rows <= 65535, the grid's second side.
cudaError_t Launch(const ResizePassArgs& launch, cudaStream_t stream);

}  // namespace siglip::cuda
