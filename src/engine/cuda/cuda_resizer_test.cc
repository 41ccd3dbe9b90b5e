// CudaResizer without a GPU: a stand-in of the CUDA runtime, which does what was given to a stream
// as late as it may, when the stream's event is waited for.

#include "engine/cuda/cuda_resizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <thread>
#include <vector>

#include "engine/cuda/host_resizer_for_test.h"
#include "kernels/cuda/launch.h"

namespace siglip::cuda {
namespace {

// What the calls below work on. Guarded by mu.
struct StandIn {
  Mutex mu;
  std::map<const std::byte*, std::size_t> device, pinned;  // bytes of what is allocated
  std::map<const std::byte*, int> gpu_of;                  // of device memory
  int streams = 0, events = 0;
  int astray = 0;                  // copies of what is no memory of its kind, or of another GPU
  int fail_copy = -1;              // the copy that fails, counted down
  std::size_t lacking = SIZE_MAX;  // an allocation of so many bytes is refused
};
StandIn& state() {
  static StandIn stand_in;
  return stand_in;
}
thread_local int current_gpu = 0;

struct Work {
  std::vector<std::function<void()>> later;
  int gpu = 0;
};
struct Point {
  Work* stream = nullptr;
};

bool Within(const std::map<const std::byte*, std::size_t>& blocks, const void* begin,
            std::size_t bytes) {
  const auto* at = static_cast<const std::byte*>(begin);
  auto block = blocks.upper_bound(at);
  if (block == blocks.begin()) return false;
  --block;
  return at + bytes <= block->first + block->second;
}

cudaError_t Allocate(std::map<const std::byte*, std::size_t>& blocks, void** to,
                     std::size_t bytes) {
  MutexLock lock(state().mu);
  if (bytes == state().lacking) return cudaErrorMemoryAllocation;
  *to = std::malloc(bytes);
  const auto* block = static_cast<const std::byte*>(*to);
  blocks[block] = bytes;
  state().gpu_of[block] = current_gpu;
  return cudaSuccess;
}

cudaError_t Free(std::map<const std::byte*, std::size_t>& blocks, void* memory) {
  MutexLock lock(state().mu);
  EXPECT_EQ(blocks.erase(static_cast<const std::byte*>(memory)), 1u);
  std::free(memory);
  return cudaSuccess;
}

}  // namespace

cudaError_t Launch(const ResizePassArgs& launch, cudaStream_t stream) {
  reinterpret_cast<Work*>(stream)->later.push_back([launch] { RunOnHost(launch); });
  return cudaSuccess;
}

}  // namespace siglip::cuda

using siglip::MutexLock;
using siglip::cuda::current_gpu;
using siglip::cuda::Point;
using siglip::cuda::state;
using siglip::cuda::Work;

extern "C" {

cudaError_t cudaGetDevice(int* gpu) {
  *gpu = current_gpu;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int gpu) {
  current_gpu = gpu;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
// What it is asked for then counts as there.
cudaError_t cudaGetDriverEntryPointByVersion(const char*, void**, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult*) {
  return cudaErrorNotSupported;
}
const char* cudaGetErrorString(cudaError_t) { return "an error"; }
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *free = 1;
  *total = 2;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** to, std::size_t bytes) {
  return siglip::cuda::Allocate(state().device, to, bytes);
}
cudaError_t cudaHostAlloc(void** to, std::size_t bytes, unsigned) {
  return siglip::cuda::Allocate(state().pinned, to, bytes);
}
cudaError_t cudaFree(void* memory) { return siglip::cuda::Free(state().device, memory); }
cudaError_t cudaFreeHost(void* memory) { return siglip::cuda::Free(state().pinned, memory); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return cudaStreamCreateWithPriority(stream, 0, 0);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  MutexLock lock(state().mu);
  ++state().streams;
  *stream = reinterpret_cast<cudaStream_t>(new Work{.later = {}, .gpu = current_gpu});
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  MutexLock lock(state().mu);
  --state().streams;
  delete reinterpret_cast<Work*>(stream);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  MutexLock lock(state().mu);
  ++state().events;
  *event = reinterpret_cast<cudaEvent_t>(new Point);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  MutexLock lock(state().mu);
  --state().events;
  delete reinterpret_cast<Point*>(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  reinterpret_cast<Point*>(event)->stream = reinterpret_cast<Work*>(stream);
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Work* work = reinterpret_cast<Point*>(event)->stream;
  for (const auto& step : work->later) step();
  work->later.clear();
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const bool up = kind == cudaMemcpyHostToDevice;
  Work* work = reinterpret_cast<Work*>(stream);
  MutexLock lock(state().mu);
  const bool right = siglip::cuda::Within(state().device, up ? to : from, bytes) &&
                     siglip::cuda::Within(state().pinned, up ? from : to, bytes) &&
                     work->gpu == current_gpu;
  if (!right) ++state().astray;
  if (state().fail_copy >= 0 && state().fail_copy-- == 0) return cudaErrorLaunchFailure;
  work->later.push_back([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}

}  // extern "C"

namespace siglip::cuda {
namespace {

constexpr std::int32_t kSide = 24;

struct Resized : ResizeCase {
  Resized(std::int32_t width, std::int32_t height)
      : ResizeCase(width, height, kSide, height > 2 * width) {}
};

class CudaResizerTest : public testing::Test {
 protected:
  void SetUp() override {
    auto resizer = CudaResizer::Open({0, 1}, kSide, [this](const absl::Status& status) {
      judged_ = status;
      return absl::InternalError("the engine is lost");
    });
    ASSERT_TRUE(resizer.ok()) << resizer.status();
    resizer_ = *std::move(resizer);
  }
  void TearDown() override {
    resizer_.reset();
    EXPECT_EQ(state().device.size() + state().pinned.size(), 0u);
    EXPECT_EQ(state().streams + state().events, 0);
    EXPECT_EQ(state().astray, 0);
  }

  std::unique_ptr<CudaResizer> resizer_;
  absl::Status judged_;
};

// More than one part of kPartBytes, exactly one, a few bytes, one side alone.
TEST_F(CudaResizerTest, EqualsTheHostInEveryPlace) {
  EXPECT_EQ(resizer_->num_places(), 4);
  for (const auto& [width, height] : std::vector<std::pair<int, int>>{
           {1500, 1000}, {2048, 1024}, {2, 3}, {1, 900}, {900, 1}, {24, 24}, {500, 375}}) {
    for (int place = 0; place < resizer_->num_places(); ++place) {
      Resized want(width, height), got(width, height);
      ASSERT_TRUE(HostResizer(kSide).Resize(want.resize).value());
      const auto taken = resizer_->Resize(got.resize);
      ASSERT_TRUE(taken.ok() && *taken) << taken.status();
      EXPECT_TRUE(got.out == want.out) << width << "x" << height << " in place " << place;
    }
  }
}

TEST_F(CudaResizerTest, CallsOfManyThreadsGetTheirOwnPictures) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {  // as many as there are places
    threads.emplace_back([&, t] {
      Resized want(100 + t, 200 - t), got(100 + t, 200 - t);
      ASSERT_TRUE(HostResizer(kSide).Resize(want.resize).value());
      for (int i = 0; i < 50; ++i) {
        std::fill(got.out.begin(), got.out.end(), std::uint8_t{0});
        const auto taken = resizer_->Resize(got.resize);
        ASSERT_TRUE(taken.ok() && *taken) << taken.status();
        ASSERT_TRUE(got.out == want.out);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(CudaResizerTest, WhatDoesNotFitIsNotTaken) {
  Resized large(static_cast<std::int32_t>(kMaxResizeSide) + 1, 1);
  EXPECT_FALSE(resizer_->Resize(large.resize).value());
  ResizePass wider = RandomPass(50, 10 * kSide, 1);  // than the engine's pictures
  Resized other(50, 20000 / 50);
  other.resize.horizontal = &wider;
  EXPECT_FALSE(resizer_->Resize(other.resize).value());
  EXPECT_EQ(other.out, std::vector<std::uint8_t>(other.out.size()));
}

TEST_F(CudaResizerTest, AnErrorIsJudgedAndCostsNoPlace) {
  Resized picture(1500, 1000);
  for (int place = 0; place < resizer_->num_places(); ++place) {
    judged_ = absl::OkStatus();
    state().fail_copy = 1;
    const auto taken = resizer_->Resize(picture.resize);
    EXPECT_EQ(taken.status(), absl::InternalError("the engine is lost"));
    EXPECT_EQ(judged_.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(judged_.message()), testing::HasSubstr("CUDA: picture"));
  }
  EXPECT_TRUE(resizer_->Resize(picture.resize).value());
}

TEST_F(CudaResizerTest, TooLittleMemoryIsAnErrorOfTheStart) {
  state().lacking = static_cast<std::size_t>(CapacityFor(kSide).middle);
  const auto resizer = CudaResizer::Open({0}, kSide, [](const absl::Status& s) { return s; });
  state().lacking = SIZE_MAX;
  EXPECT_EQ(resizer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(resizer.status().message()),
              testing::HasSubstr("free bytes, got 1 of 2"));
}

}  // namespace
}  // namespace siglip::cuda
