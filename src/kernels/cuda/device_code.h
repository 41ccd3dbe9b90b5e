#pragma once

// Code that nvcc compiles for the GPU and the host compiler for its test.

#ifdef __CUDACC__
#define SIGLIP_DEVICE __device__ __forceinline__
#define SIGLIP_HOST_DEVICE __host__ __device__ __forceinline__
#define SIGLIP_UNROLL _Pragma("unroll")
#else
#define SIGLIP_DEVICE inline
#define SIGLIP_HOST_DEVICE inline
#define SIGLIP_UNROLL
#endif

namespace siglip::cuda {

// The two 16-bit types that tensor cores take, as bits: std::uint16_t.
enum class HalfType { kBf16, kFp16 };

}  // namespace siglip::cuda
