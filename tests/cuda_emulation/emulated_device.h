#pragma once

// CUDA's device code on the host, for kernels that translate.py has made of a .cu file. The threads
// of a block are fibers that run until they come to a barrier; blocks run one after the other. What
// a GPU would not notice ends the program: a barrier that not all come to, shared memory overrun,
// addresses that are not aligned, copies that nobody waits for.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

namespace siglip::cuda::emulation {

struct Thread {
  ucontext_t context = {};
  std::vector<char> stack = std::vector<char>(std::size_t{64} << 10);
  uint3 index = {};
  bool done = false;
  std::int64_t warp_barriers = 0;  // that it has come to
  std::int64_t block_barriers = 0;
  std::vector<std::function<void()>> copies = {};  // asynchronous ones, not yet waited for
};

// Of the thread that runs.
Thread& Current();
uint3 BlockIndex();
inline int LaneId() { return static_cast<int>(Current().index.x % 32); }

// What the lanes of a warp show each other: 16 words each.
std::uint32_t* Words(int lane);
void SyncWarp();
void SyncBlock();

// Shared memory whose size the launch says.
char* DynamicShared();
std::size_t DynamicSharedBytes();

[[noreturn]] void Fail(const char* what);
void DemandAligned(const void* address, std::size_t alignment);

void RunGrid(dim3 blocks, int threads, std::size_t shared_bytes, const std::function<void()>& body);
// At the end of the stream. Of emulated_runtime.cc.
void Enqueue(cudaStream_t stream, std::function<void()> work);

template <class Kernel, class Params>
void Launch(Kernel kernel, dim3 blocks, int threads, std::size_t shared_bytes, cudaStream_t stream,
            Params params) {
  Enqueue(stream, [=] { RunGrid(blocks, threads, shared_bytes, [&] { kernel(params); }); });
}

template <class T>
T ShuffleXor(T value, int mask) {
  static_assert(sizeof value == 4);
  std::memcpy(Words(LaneId()), &value, 4);
  SyncWarp();
  std::memcpy(&value, Words(LaneId() ^ mask), 4);
  SyncWarp();
  return value;
}

}  // namespace siglip::cuda::emulation

#define threadIdx (siglip::cuda::emulation::Current().index)
#define blockIdx (siglip::cuda::emulation::BlockIndex())
#define __syncthreads() siglip::cuda::emulation::SyncBlock()
#define __syncwarp() siglip::cuda::emulation::SyncWarp()
#define __shfl_xor_sync(mask, value, lanes) siglip::cuda::emulation::ShuffleXor(value, lanes)

// One block runs at a time.
#undef __shared__
#define __shared__ static
#undef __global__
#define __global__
#undef __launch_bounds__
#define __launch_bounds__(...)

inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline int min(int a, int b) { return a < b ? a : b; }

// No more than the least that a supported GPU has (compute capability 8.6).
template <class... Arguments>
cudaError_t cudaFuncSetAttribute(void (*)(Arguments...), cudaFuncAttribute, int bytes) {
  return bytes <= 101376 ? cudaSuccess : cudaErrorInvalidValue;
}
