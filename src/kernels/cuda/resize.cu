// Passes of Pillow's resize: a thread per output byte. Neighbours read neighbouring bytes (down the
// columns), or windows that overlap (along the rows), which come from the L1 cache.

#include "kernels/cuda/launch.h"
#include "kernels/cuda/resize_pass.h"

namespace siglip::cuda {
namespace {

constexpr int kResizeThreads = 256;

template <ResizeAxis kAxis>
__global__ void __launch_bounds__(kResizeThreads) ResizeKernel(ResizePassArgs p) {
  const auto byte = static_cast<std::int32_t>(blockIdx.x * kResizeThreads + threadIdx.x);
  const auto row = static_cast<std::int32_t>(blockIdx.y);
  if (byte >= p.row_bytes) return;
  p.out[static_cast<std::int64_t>(row) * p.row_bytes + byte] = ResizedByte<kAxis>(p, row, byte);
}

}  // namespace

cudaError_t Launch(const ResizePassArgs& launch, cudaStream_t stream) {
  const dim3 blocks(static_cast<unsigned>((launch.row_bytes + kResizeThreads - 1) / kResizeThreads),
                    static_cast<unsigned>(launch.rows));
  if (launch.axis == ResizeAxis::kHorizontal) {
    ResizeKernel<ResizeAxis::kHorizontal><<<blocks, kResizeThreads, 0, stream>>>(launch);
  } else {
    ResizeKernel<ResizeAxis::kVertical><<<blocks, kResizeThreads, 0, stream>>>(launch);
  }
  return cudaGetLastError();
}

}  // namespace siglip::cuda
