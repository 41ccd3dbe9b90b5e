// What works on rows: layer norm, rounding to e4m3, patches, embeddings, pooling. All of it is
// bound by memory: 16-byte vectors, values read once.

#include <cuda_fp8.h>

#include <algorithm>

#include "kernels/cuda/device_warp.cuh"
#include "kernels/cuda/launch.h"

namespace siglip::cuda {
namespace {

// Eight values at a time, in float32.
template <class T>
struct Vector;
template <>
struct Vector<float> {
  static SIGLIP_DEVICE void Load(const float* from, float (&to)[8]) {
    const float4 a = reinterpret_cast<const float4*>(from)[0];
    const float4 b = reinterpret_cast<const float4*>(from)[1];
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
    to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
  }
  static SIGLIP_DEVICE void Store(const float (&from)[8], float* to) {
    reinterpret_cast<float4*>(to)[0] = make_float4(from[0], from[1], from[2], from[3]);
    reinterpret_cast<float4*>(to)[1] = make_float4(from[4], from[5], from[6], from[7]);
  }
};
template <HalfType kType>
struct HalfVector {
  using T = typename Half<kType>::Type;
  static SIGLIP_DEVICE void Load(const T* from, float (&to)[8]) {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    const std::uint32_t pairs[4] = {bits.x, bits.y, bits.z, bits.w};
    SIGLIP_UNROLL for (int i = 0; i < 4; ++i) {
      const float2 pair = Half<kType>::Unpack(pairs[i]);
      to[2 * i] = pair.x;
      to[2 * i + 1] = pair.y;
    }
  }
  static SIGLIP_DEVICE void Store(const float (&from)[8], T* to) {
    *reinterpret_cast<uint4*>(to) =
        make_uint4(Half<kType>::Pack(from[0], from[1]), Half<kType>::Pack(from[2], from[3]),
                   Half<kType>::Pack(from[4], from[5]), Half<kType>::Pack(from[6], from[7]));
  }
};
template <>
struct Vector<__nv_bfloat16> : HalfVector<HalfType::kBf16> {};
template <>
struct Vector<__half> : HalfVector<HalfType::kFp16> {};
template <>
struct Vector<__nv_fp8_e4m3> {
  static SIGLIP_DEVICE void Store(const float (&from)[8], __nv_fp8_e4m3* to) {
    *reinterpret_cast<uint2*>(to) = make_uint2(Pack(from), Pack(from + 4));
  }

 private:
  static SIGLIP_DEVICE std::uint32_t Pack(const float* from) {
    return static_cast<std::uint32_t>(Pair(from + 2)) << 16 | Pair(from);
  }
  static SIGLIP_DEVICE std::uint16_t Pair(const float* from) {
    return __nv_cvt_float2_to_fp8x2(make_float2(from[0], from[1]), __NV_SATFINITE, __NV_E4M3);
  }
};

// The largest e4m3 number.
constexpr float kMaxE4m3 = 448;

SIGLIP_DEVICE float WarpSum(float value) {
  SIGLIP_UNROLL for (int i = 16; i > 0; i /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, i);
  return value;
}
SIGLIP_DEVICE float WarpMax(float value) {
  SIGLIP_UNROLL for (int i = 16; i > 0; i /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, i));
  }
  return value;
}
// What a row of e4m3 numbers has to be multiplied by. Of smaller rows the inverse would overflow,
// and they are zeros to all that reads them.
SIGLIP_DEVICE float RowScale(float largest) {
  return largest > 1e-30f ? largest / kMaxE4m3 : 1.0f;
}

constexpr int kRowsPerBlock = 4;  // a warp each

// A warp holds a row: kVectors vectors per lane, the last ones perhaps past the end.
template <class X, class Y, int kVectors>
__global__ void __launch_bounds__(32 * kRowsPerBlock) NormKernel(NormLaunch p) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / 32;
  if (row >= p.rows) return;
  const X* x = static_cast<const X*>(p.x) + row * p.x_stride;
  const int width = static_cast<int>(p.width);
  const auto column = [&](int v) { return 8 * (lane + 32 * v); };
  float values[kVectors][8];
  float sum = 0;
  SIGLIP_UNROLL for (int v = 0; v < kVectors; ++v) {
    if (column(v) >= width) continue;
    Vector<X>::Load(x + column(v), values[v]);
    SIGLIP_UNROLL for (int i = 0; i < 8; ++i) sum += values[v][i];
  }
  const float mean = WarpSum(sum) / static_cast<float>(width);
  float squares = 0;
  SIGLIP_UNROLL for (int v = 0; v < kVectors; ++v) {
    if (column(v) >= width) continue;
    SIGLIP_UNROLL for (int i = 0; i < 8; ++i) {
      values[v][i] -= mean;
      squares += values[v][i] * values[v][i];
    }
  }
  const float factor = rsqrtf(WarpSum(squares) / static_cast<float>(width) + p.eps);
  float largest = 0;
  SIGLIP_UNROLL for (int v = 0; v < kVectors; ++v) {
    if (column(v) >= width) continue;
    float weight[8], bias[8];
    Vector<float>::Load(p.weight + column(v), weight);
    Vector<float>::Load(p.bias + column(v), bias);
    SIGLIP_UNROLL for (int i = 0; i < 8; ++i) {
      values[v][i] = fmaf(values[v][i] * factor, weight[i], bias[i]);
      largest = fmaxf(largest, fabsf(values[v][i]));
    }
  }
  float inverse = 1;
  if constexpr (std::is_same_v<Y, __nv_fp8_e4m3>) {
    const float scale = RowScale(WarpMax(largest));
    inverse = 1 / scale;
    if (lane == 0) p.row_scales[row] = scale;
  }
  Y* y = static_cast<Y*>(p.y) + row * p.y_stride;
  SIGLIP_UNROLL for (int v = 0; v < kVectors; ++v) {
    if (column(v) >= width) continue;
    if constexpr (std::is_same_v<Y, __nv_fp8_e4m3>) {
      SIGLIP_UNROLL for (int i = 0; i < 8; ++i) values[v][i] *= inverse;
    }
    Vector<Y>::Store(values[v], y + column(v));
  }
}

template <class X, class Y>
cudaError_t LaunchNorm(const NormLaunch& launch, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((launch.rows + kRowsPerBlock - 1) / kRowsPerBlock);
  const int threads = 32 * kRowsPerBlock;
  const std::int64_t vectors = (launch.width + 255) / 256;
  // base, large, so400m, up to twice large.
  if (vectors <= 3) {
    NormKernel<X, Y, 3><<<blocks, threads, 0, stream>>>(launch);
  } else if (vectors <= 4) {
    NormKernel<X, Y, 4><<<blocks, threads, 0, stream>>>(launch);
  } else if (vectors <= 5) {
    NormKernel<X, Y, 5><<<blocks, threads, 0, stream>>>(launch);
  } else {
    NormKernel<X, Y, 8><<<blocks, threads, 0, stream>>>(launch);
  }
  return cudaGetLastError();
}

template <class T>
cudaError_t LaunchNormType(const NormLaunch& launch, cudaStream_t stream) {
  const bool wide = launch.x_type == Type::kFp32;
  if (launch.y_type == Type::kE4m3) {
    return wide ? LaunchNorm<float, __nv_fp8_e4m3>(launch, stream)
                : LaunchNorm<T, __nv_fp8_e4m3>(launch, stream);
  }
  return wide ? LaunchNorm<float, T>(launch, stream) : LaunchNorm<T, T>(launch, stream);
}

constexpr int kQuantiseThreads = 256;

// A block per row, which it reads twice, the second time from a cache.
template <class T>
__global__ void __launch_bounds__(kQuantiseThreads) QuantiseKernel(QuantiseLaunch p) {
  __shared__ float largest_of_warp[kQuantiseThreads / 32];
  const std::int64_t row = blockIdx.x;
  const T* x = static_cast<const T*>(p.x) + row * p.x_stride;
  float largest = 0;
  float values[8];
  for (std::int64_t i = 8 * threadIdx.x; i < p.width; i += 8 * kQuantiseThreads) {
    Vector<T>::Load(x + i, values);
    SIGLIP_UNROLL for (int j = 0; j < 8; ++j) largest = fmaxf(largest, fabsf(values[j]));
  }
  largest = WarpMax(largest);
  if (threadIdx.x % 32 == 0) largest_of_warp[threadIdx.x / 32] = largest;
  __syncthreads();
  SIGLIP_UNROLL for (int i = 0; i < kQuantiseThreads / 32; ++i) {
    largest = fmaxf(largest, largest_of_warp[i]);
  }
  const float scale = RowScale(largest);
  const float inverse = 1 / scale;
  if (threadIdx.x == 0) p.row_scales[row] = scale;
  __nv_fp8_e4m3* y = static_cast<__nv_fp8_e4m3*>(p.y) + row * p.width;
  for (std::int64_t i = 8 * threadIdx.x; i < p.width; i += 8 * kQuantiseThreads) {
    Vector<T>::Load(x + i, values);
    SIGLIP_UNROLL for (int j = 0; j < 8; ++j) values[j] *= inverse;
    Vector<__nv_fp8_e4m3>::Store(values, y + i);
  }
}

template <class X>
cudaError_t LaunchQuantise(const QuantiseLaunch& launch, cudaStream_t stream) {
  QuantiseKernel<X><<<static_cast<unsigned>(launch.rows), kQuantiseThreads, 0, stream>>>(launch);
  return cudaGetLastError();
}

constexpr int kVectorThreads = 256;
unsigned VectorBlocks(std::int64_t elements) {
  return static_cast<unsigned>((elements / 8 + kVectorThreads - 1) / kVectorThreads);
}

template <class T>
__global__ void __launch_bounds__(kVectorThreads) RoundKernel(RoundLaunch p) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kVectorThreads + threadIdx.x;
  if (i < p.count) static_cast<T*>(p.y)[i] = static_cast<T>(p.x[i]);
}

// A thread per 8 columns of a patch.
template <class T>
__global__ void __launch_bounds__(kVectorThreads) PatchesKernel(PatchesLaunch p) {
  const std::int64_t tokens = p.per_side * p.per_side;
  const std::int64_t at =
      8 * (static_cast<std::int64_t>(blockIdx.x) * kVectorThreads + threadIdx.x);
  if (at >= p.items * tokens * p.padded) return;
  const std::int64_t row = at / p.padded;
  const int token = static_cast<int>(row % tokens);
  const int patch = static_cast<int>(p.patch);
  const int per_side = static_cast<int>(p.per_side);
  const int filled = static_cast<int>(p.channels) * patch * patch;
  const int side = static_cast<int>(p.image_size);
  const float* image = p.pixels + row / tokens * p.channels * side * side;
  float values[8];
  SIGLIP_UNROLL for (int j = 0; j < 8; ++j) {
    const int i = static_cast<int>(at % p.padded) + j;
    const int channel = i / (patch * patch);
    const int y = token / per_side * patch + i / patch % patch;
    const int x = token % per_side * patch + i % patch;
    values[j] = i < filled ? image[(channel * side + y) * side + x] : 0.0f;
  }
  Vector<T>::Store(values, static_cast<T*>(p.y) + at);
}

template <class T, class Y>
__global__ void __launch_bounds__(kVectorThreads) EmbedKernel(EmbedLaunch p) {
  const std::int64_t at =
      8 * (static_cast<std::int64_t>(blockIdx.x) * kVectorThreads + threadIdx.x);
  if (at >= p.rows * p.width) return;
  const std::int64_t row = at / p.width;
  const std::int64_t column = at % p.width;
  float values[8];
  Vector<float>::Load(p.addend + row % p.period * p.width + column, values);
  if (p.ids != nullptr) {
    float token[8];
    Vector<T>::Load(static_cast<const T*>(p.table) + p.ids[row] * p.width + column, token);
    SIGLIP_UNROLL for (int j = 0; j < 8; ++j) values[j] += token[j];
  }
  Vector<Y>::Store(values, static_cast<Y*>(p.y) + at);
}

template <class T>
cudaError_t LaunchEmbed(const EmbedLaunch& launch, cudaStream_t stream) {
  const unsigned blocks = VectorBlocks(launch.rows * launch.width);
  if (launch.y_type == Type::kFp32) {
    EmbedKernel<T, float><<<blocks, kVectorThreads, 0, stream>>>(launch);
  } else {
    EmbedKernel<T, T><<<blocks, kVectorThreads, 0, stream>>>(launch);
  }
  return cudaGetLastError();
}

// 64 columns and 4 heads of one item: 8 threads side by side take 8 columns each, 32 share the
// tokens. x is read once for 4 heads.
constexpr int kPoolColumns = 64;
constexpr int kPoolHeads = 4;
constexpr int kPoolThreads = 256;
constexpr int kPoolLanes = kPoolThreads / (kPoolColumns / 8);

template <class T>
__global__ void __launch_bounds__(kPoolThreads) PoolKernel(PoolLaunch p) {
  __shared__ float max_of_head[kPoolHeads];
  __shared__ float sum_of_head[kPoolHeads];
  __shared__ float partial[kPoolThreads / 32][kPoolHeads][kPoolColumns];
  const int thread = static_cast<int>(threadIdx.x);
  const int first_head = static_cast<int>(blockIdx.y) * kPoolHeads;
  const int heads = static_cast<int>(p.heads);
  const int tokens = static_cast<int>(p.tokens);
  const float* scores =
      p.scores + static_cast<std::int64_t>(blockIdx.z) * tokens * heads + first_head;
  if (thread < 32 * kPoolHeads && first_head + thread / 32 < heads) {
    const int head = thread / 32;
    float max = -INFINITY;
    for (int t = thread % 32; t < tokens; t += 32) max = fmaxf(max, scores[t * heads + head]);
    max = WarpMax(max);
    float sum = 0;
    for (int t = thread % 32; t < tokens; t += 32) sum += __expf(scores[t * heads + head] - max);
    sum = WarpSum(sum);
    if (thread % 32 == 0) {
      max_of_head[head] = max;
      sum_of_head[head] = sum;
    }
  }
  __syncthreads();

  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kPoolColumns + thread % 8 * 8;
  float sums[kPoolHeads][8] = {};
  if (column < p.width) {
    const T* x = static_cast<const T*>(p.x) +
                 static_cast<std::int64_t>(blockIdx.z) * tokens * p.width + column;
    for (int t = thread / 8; t < tokens; t += kPoolLanes) {
      float values[8];
      Vector<T>::Load(x + t * p.width, values);
      SIGLIP_UNROLL for (int h = 0; h < kPoolHeads; ++h) {
        if (first_head + h >= heads) continue;
        const float weight = __expf(scores[t * heads + h] - max_of_head[h]);
        SIGLIP_UNROLL for (int j = 0; j < 8; ++j) sums[h][j] = fmaf(weight, values[j], sums[h][j]);
      }
    }
  }
  // Lanes 8 apart hold the same columns; then the warps.
  SIGLIP_UNROLL for (int h = 0; h < kPoolHeads; ++h) {
    SIGLIP_UNROLL for (int j = 0; j < 8; ++j) {
      float sum = sums[h][j];
      sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 8);
      sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 16);
      if (thread % 32 < 8) partial[thread / 32][h][thread % 8 * 8 + j] = sum;
    }
  }
  __syncthreads();
  const int head = thread / kPoolColumns;
  const std::int64_t to =
      static_cast<std::int64_t>(blockIdx.x) * kPoolColumns + thread % kPoolColumns;
  if (first_head + head >= heads || to >= p.width) return;
  float sum = 0;
  SIGLIP_UNROLL for (int w = 0; w < kPoolThreads / 32; ++w) {
    sum += partial[w][head][thread % kPoolColumns];
  }
  static_cast<T*>(
      p.sums)[(static_cast<std::int64_t>(blockIdx.z) * heads + first_head + head) * p.width + to] =
      static_cast<T>(sum / sum_of_head[head]);
}
static_assert(kPoolThreads == kPoolHeads * kPoolColumns);

}  // namespace

cudaError_t Launch(const NormLaunch& launch, cudaStream_t stream) {
  return launch.type == HalfType::kBf16 ? LaunchNormType<__nv_bfloat16>(launch, stream)
                                        : LaunchNormType<__half>(launch, stream);
}

cudaError_t Launch(const QuantiseLaunch& launch, cudaStream_t stream) {
  if (launch.x_type == Type::kFp32) return LaunchQuantise<float>(launch, stream);
  return launch.type == HalfType::kBf16 ? LaunchQuantise<__nv_bfloat16>(launch, stream)
                                        : LaunchQuantise<__half>(launch, stream);
}

cudaError_t Launch(const RoundLaunch& launch, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((launch.count + kVectorThreads - 1) / kVectorThreads);
  if (launch.type == HalfType::kBf16) {
    RoundKernel<__nv_bfloat16><<<blocks, kVectorThreads, 0, stream>>>(launch);
  } else {
    RoundKernel<__half><<<blocks, kVectorThreads, 0, stream>>>(launch);
  }
  return cudaGetLastError();
}

cudaError_t Launch(const PatchesLaunch& launch, cudaStream_t stream) {
  const unsigned blocks =
      VectorBlocks(launch.items * launch.per_side * launch.per_side * launch.padded);
  if (launch.type == HalfType::kBf16) {
    PatchesKernel<__nv_bfloat16><<<blocks, kVectorThreads, 0, stream>>>(launch);
  } else {
    PatchesKernel<__half><<<blocks, kVectorThreads, 0, stream>>>(launch);
  }
  return cudaGetLastError();
}

cudaError_t Launch(const EmbedLaunch& launch, cudaStream_t stream) {
  return launch.type == HalfType::kBf16 ? LaunchEmbed<__nv_bfloat16>(launch, stream)
                                        : LaunchEmbed<__half>(launch, stream);
}

cudaError_t Launch(const PoolLaunch& launch, cudaStream_t stream) {
  const dim3 blocks(static_cast<unsigned>((launch.width + kPoolColumns - 1) / kPoolColumns),
                    static_cast<unsigned>((launch.heads + kPoolHeads - 1) / kPoolHeads),
                    static_cast<unsigned>(launch.items));
  if (launch.type == HalfType::kBf16) {
    PoolKernel<__nv_bfloat16><<<blocks, kPoolThreads, 0, stream>>>(launch);
  } else {
    PoolKernel<__half><<<blocks, kPoolThreads, 0, stream>>>(launch);
  }
  return cudaGetLastError();
}

}  // namespace siglip::cuda
