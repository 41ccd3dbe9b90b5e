// The CUDA runtime of SIGLIP_EMULATED_GPUS (default 1) GPUs that are not there. Work waits in its
// stream until somebody waits for it, so that a missing synchronisation shows. What a runtime would
// refuse or quietly get wrong ends the program.

#include "emulated_runtime.h"

#include "emulated_device.h"

#undef blockIdx
#undef threadIdx

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

using Work = std::function<void()>;
using Graph = std::shared_ptr<std::vector<Work>>;

struct CUstream_st {
  int device = 0;
  std::deque<Work> waiting = {};
  std::size_t pushed = 0;
  std::size_t done = 0;
  Graph capture = nullptr;  // null: none
};
struct CUevent_st {
  int device = 0;
  bool has_time = false;
  CUstream_st* stream = nullptr;
  std::size_t position = 0;
  double time_ms = 0;
};
struct CUgraph_st {
  Graph work;
};
struct CUgraphExec_st {
  Graph work;
};

namespace siglip::cuda::emulation {
namespace {

struct Allocation {
  std::size_t bytes = 0;
  int device = 0;
  bool pinned = false;
};

std::recursive_mutex mu;  // of all that follows
std::set<CUstream_st*> streams;
std::map<const char*, Allocation> allocations;

thread_local int device = 0;
thread_local int captures = 0;

int NumGpus() {
  const char* const number = std::getenv("SIGLIP_EMULATED_GPUS");
  return number == nullptr ? 1 : std::atoi(number);
}

void DemandNoCapture() {
  if (captures > 0) Fail("a call that a capture does not allow");
}

const Allocation* Find(const void* address, std::size_t bytes) {
  const char* const begin = static_cast<const char*>(address);
  auto it = allocations.upper_bound(begin);
  if (it == allocations.begin()) return nullptr;
  --it;
  return begin + bytes <= it->first + it->second.bytes ? &it->second : nullptr;
}

void RunUntil(CUstream_st& stream, std::size_t position) {
  while (stream.done < position) {
    const Work work = std::move(stream.waiting.front());
    stream.waiting.pop_front();
    ++stream.done;
    work();
  }
}

void RunAll() {
  for (CUstream_st* stream : streams) RunUntil(*stream, stream->pushed);
}

cudaError_t Allocate(void** out, std::size_t bytes, bool pinned) {
  const std::lock_guard lock(mu);
  DemandNoCapture();
  constexpr std::size_t kAlignment = 256;
  char* const memory = static_cast<char*>(
      std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment));
  if (memory == nullptr) return cudaErrorMemoryAllocation;
  std::memset(memory, 0xff, bytes);  // no numbers
  allocations[memory] = {bytes, device, pinned};
  *out = memory;
  return cudaSuccess;
}

cudaError_t Free(void* memory, bool pinned) {
  const std::lock_guard lock(mu);
  if (memory == nullptr) return cudaSuccess;
  DemandNoCapture();
  const auto found = allocations.find(static_cast<char*>(memory));
  if (found == allocations.end() || found->second.pinned != pinned) Fail("memory to free");
  if (!pinned && found->second.device != device) Fail("memory of another device to free");
  RunAll();
  allocations.erase(found);
  std::free(memory);
  return cudaSuccess;
}

}  // namespace

int CurrentDevice() { return device; }

void DemandDeviceMemory(const void* address, std::size_t bytes) {
  const std::lock_guard lock(mu);
  const Allocation* const found = Find(address, bytes);
  if (found == nullptr || found->pinned) Fail("an operand outside a device's memory");
  if (found->device != device) Fail("an operand of another device");
}

void Enqueue(cudaStream_t stream, Work work) {
  const std::lock_guard lock(mu);
  if (stream == nullptr) {
    RunAll();
    return work();
  }
  if (stream->device != device) Fail("a stream of another device");
  if (stream->capture != nullptr) {
    stream->capture->push_back(std::move(work));
    return;
  }
  stream->waiting.push_back(std::move(work));
  ++stream->pushed;
}

}  // namespace siglip::cuda::emulation

using namespace siglip::cuda::emulation;  // NOLINT: the runtime's functions are of no namespace

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = NumGpus();
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* out) {
  *out = device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int wanted) {
  if (wanted < 0 || wanted >= NumGpus()) return cudaErrorInvalidDevice;
  device = wanted;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int wanted) {
  if (wanted < 0 || wanted >= NumGpus()) return cudaErrorInvalidDevice;
  *properties = {};
  std::strcpy(properties->name, "Emulated");
  properties->major = 9;
  properties->totalGlobalMem = std::size_t{1} << 37;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char*, void**, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult*) {
  return cudaErrorNotSupported;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t error) {
  static thread_local std::string text;
  text = "error " + std::to_string(error);
  return text.c_str();
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *free = *total = std::size_t{1} << 37;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** out, std::size_t bytes) { return Allocate(out, bytes, false); }
cudaError_t cudaHostAlloc(void** out, std::size_t bytes, unsigned) {
  return Allocate(out, bytes, true);
}
cudaError_t cudaFree(void* memory) { return Free(memory, false); }
cudaError_t cudaFreeHost(void* memory) { return Free(memory, true); }

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  const std::lock_guard lock(mu);
  DemandNoCapture();
  RunAll();
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const std::lock_guard lock(mu);
  const bool to_device = kind == cudaMemcpyHostToDevice;
  DemandDeviceMemory(to_device ? to : from, bytes);
  const Allocation* const host = Find(to_device ? from : to, bytes);
  if (host != nullptr && host->pinned) {
    Enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  } else if (to_device) {  // read before the call returns
    const auto copy = std::make_shared<std::string>(static_cast<const char*>(from), bytes);
    Enqueue(stream, [=] { std::memcpy(to, copy->data(), bytes); });
  } else {
    Fail("a copy into memory that is not pinned");
  }
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  DemandDeviceMemory(to, bytes);
  Enqueue(stream, [=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags) {
  const std::lock_guard lock(mu);
  if (flags != cudaStreamNonBlocking) Fail("a stream that waits for the default one");
  *out = new CUstream_st{.device = device};
  streams.insert(*out);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* out, unsigned flags, int) {
  return cudaStreamCreateWithFlags(out, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
// Not deleted: events may name it.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(mu);
  RunUntil(*stream, stream->pushed);
  streams.erase(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const std::lock_guard lock(mu);
  DemandNoCapture();
  if (stream->device != device) Fail("a stream of another device");
  RunUntil(*stream, stream->pushed);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  const std::lock_guard lock(mu);
  DemandNoCapture();
  RunAll();
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned flags) {
  *out = new CUevent_st{.device = device, .has_time = flags == cudaEventDefault};
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(mu);
  if (event->device != stream->device) Fail("an event of another device");
  if (stream->capture != nullptr) Fail("an event in a capture");
  if (event->has_time) {
    Enqueue(stream, [event] {
      event->time_ms = std::chrono::duration<double, std::milli>(
                           std::chrono::steady_clock::now().time_since_epoch())
                           .count();
    });
  }
  event->stream = stream;
  event->position = stream->pushed;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const std::lock_guard lock(mu);
  DemandNoCapture();
  if (event->stream != nullptr) RunUntil(*event->stream, event->position);
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end) {
  if (!begin->has_time || !end->has_time) Fail("events without a time");
  *ms = static_cast<float>(end->time_ms - begin->time_ms);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const std::lock_guard lock(mu);
  Enqueue(stream, [other = event->stream, position = event->position] {
    if (other != nullptr) RunUntil(*other, position);
  });
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const std::lock_guard lock(mu);
  if (stream->capture != nullptr || mode != cudaStreamCaptureModeThreadLocal) {
    Fail("the beginning of a capture");
  }
  stream->capture = std::make_shared<std::vector<Work>>();
  ++captures;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out) {
  const std::lock_guard lock(mu);
  if (stream->capture == nullptr) Fail("the end of no capture");
  --captures;
  *out = new CUgraph_st{std::exchange(stream->capture, nullptr)};
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  *out = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  Enqueue(stream, [work = graph->work] {
    for (const Work& one : *work) one();
  });
  return cudaSuccess;
}

}  // extern "C"
