#include <cmath>

#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/device_warp.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"

namespace siglip::cuda {
namespace {

struct Params {
  const std::uint16_t *q, *k, *v;
  std::uint16_t* out;
  std::int64_t row_stride, out_stride;
  int tokens, head_dim, query_begin, query_count;
  float scale;
};

// Rows [first, first + kRows) of one head, `limit` of which exist.
template <class Shape, int kRows>
SIGLIP_DEVICE void CopyTile(std::uint16_t* to, const std::uint16_t* from, std::int64_t stride,
                            int first, int limit, int head_dim) {
  for (int i = static_cast<int>(threadIdx.x); i < kRows * Shape::kVectors; i += Shape::kThreads) {
    const TileVector vector = VectorOfTile<Shape>(i);
    const int row = first + vector.row;
    const bool inside = row < limit && vector.column < head_dim;
    ptx::CopyAsync(to + vector.row * Shape::kStride + vector.column,
                   inside ? from + row * stride + vector.column : from, inside);
  }
}

// A block answers kQueries queries of one head of one item: blockIdx.x, y, z.
template <class Shape, HalfType kType>
__global__ void __launch_bounds__(Shape::kThreads, 2) AttentionKernel(Params p) {
  using Warp = DeviceWarp<kType, AttentionLane<Shape>>;
  using Tile = AttentionTile<Shape, Warp>;
  extern __shared__ __align__(16) std::uint16_t shared[];
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.z) * p.tokens;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.y) * p.head_dim;
  const std::uint16_t* q = p.q + (first_row + p.query_begin) * p.row_stride + column;
  const std::uint16_t* k = p.k + first_row * p.row_stride + column;
  const std::uint16_t* v = p.v + first_row * p.row_stride + column;
  const int first_query = static_cast<int>(blockIdx.x) * Shape::kQueries;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * Shape::kWarpQueries;
  const bool busy = first_query + warp_row < p.query_count;

  const auto copy_keys = [&](int tile) {
    const int first = tile * Shape::kKeys;
    CopyTile<Shape, Shape::kKeys>(shared + Shape::KeyOffset(tile % 2), k, p.row_stride, first,
                                  p.tokens, p.head_dim);
    CopyTile<Shape, Shape::kKeys>(shared + Shape::ValueOffset(tile % 2), v, p.row_stride, first,
                                  p.tokens, p.head_dim);
    ptx::CommitCopies();
  };
  CopyTile<Shape, Shape::kQueries>(shared, q, p.row_stride, first_query, p.query_count, p.head_dim);
  copy_keys(0);

  Warp warp(shared);
  const int tiles = (p.tokens + Shape::kKeys - 1) / Shape::kKeys;
  for (int tile = 0; tile < tiles; ++tile) {
    ptx::WaitForCopies();
    // The tile is there for all, and no warp reads the stage that is filled next.
    __syncthreads();
    if (tile + 1 < tiles) copy_keys(tile + 1);
    if (!busy) continue;
    if (tile == 0) Tile::Start(warp, warp_row);
    Tile::Step(warp, Shape::KeyOffset(tile % 2), Shape::ValueOffset(tile % 2),
               min(Shape::kKeys, p.tokens - tile * Shape::kKeys), p.scale);
  }
  if (!busy) return;
  Tile::Finish(warp, warp_row);
  __syncwarp();
  std::uint16_t* out =
      p.out + static_cast<std::int64_t>(blockIdx.z) * p.query_count * p.out_stride + column;
  for (int i = static_cast<int>(threadIdx.x) % 32; i < Shape::kWarpQueries * Shape::kVectors;
       i += 32) {
    const TileVector vector = VectorOfTile<Shape>(i);
    const int row = warp_row + vector.row;
    if (first_query + row >= p.query_count || vector.column >= p.head_dim) continue;
    *reinterpret_cast<uint4*>(out + (first_query + row) * p.out_stride + vector.column) =
        *reinterpret_cast<const uint4*>(shared + row * Shape::kStride + vector.column);
  }
}

template <class Shape, HalfType kType>
cudaError_t LaunchShape(const AttentionLaunch& launch, cudaStream_t stream) {
  constexpr int kSharedBytes = 2 * Shape::kSharedElements;
  const auto kernel = AttentionKernel<Shape, kType>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return error;
  Params p;
  p.q = static_cast<const std::uint16_t*>(launch.q);
  p.k = static_cast<const std::uint16_t*>(launch.k);
  p.v = static_cast<const std::uint16_t*>(launch.v);
  p.out = static_cast<std::uint16_t*>(launch.out);
  p.row_stride = launch.row_stride;
  p.out_stride = launch.out_stride;
  p.tokens = static_cast<int>(launch.tokens);
  p.head_dim = static_cast<int>(launch.head_dim);
  p.query_begin = static_cast<int>(launch.query_begin);
  p.query_count = static_cast<int>(launch.query_count);
  p.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(launch.head_dim)) / std::log(2.0));
  const dim3 blocks(
      static_cast<unsigned>((launch.query_count + Shape::kQueries - 1) / Shape::kQueries),
      static_cast<unsigned>(launch.heads), static_cast<unsigned>(launch.items));
  kernel<<<blocks, Shape::kThreads, kSharedBytes, stream>>>(p);
  return cudaGetLastError();
}

// Wider heads leave registers for one tile of 16 queries only.
template <HalfType kType>
cudaError_t LaunchType(const AttentionLaunch& launch, cudaStream_t stream) {
  if (launch.head_dim <= 32) return LaunchShape<AttentionShape<32, 2>, kType>(launch, stream);
  if (launch.head_dim <= 64) return LaunchShape<AttentionShape<64, 2>, kType>(launch, stream);
  if (launch.head_dim <= 72) return LaunchShape<AttentionShape<72, 2>, kType>(launch, stream);
  if (launch.head_dim <= 80) return LaunchShape<AttentionShape<80, 2>, kType>(launch, stream);
  if (launch.head_dim <= 96) return LaunchShape<AttentionShape<96, 1>, kType>(launch, stream);
  return LaunchShape<AttentionShape<128, 1>, kType>(launch, stream);
}

}  // namespace

cudaError_t Launch(const AttentionLaunch& launch, cudaStream_t stream) {
  return launch.type == HalfType::kBf16 ? LaunchType<HalfType::kBf16>(launch, stream)
                                        : LaunchType<HalfType::kFp16>(launch, stream);
}

}  // namespace siglip::cuda
