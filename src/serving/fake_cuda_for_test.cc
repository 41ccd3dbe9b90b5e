// Stands in for the driver's libcuda.so.1, as far as cuda_ipc.cc uses it. Two GPUs; their memory is
// POSIX shared memory, and a handle is its name. As with the real one nothing works without a
// current context, and a copy is done when its stream is synchronized. SIGLIP_FAKE_CUDA, read at
// each call, says what is wrong: no_driver (the start fails), no_gpu, lost (handles and copies).

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace {

// CUresult
constexpr int kSuccess = 0;
constexpr int kInvalidValue = 1;
constexpr int kNotInitialized = 3;
constexpr int kDeviceUnavailable = 46;
constexpr int kNoDevice = 100;
constexpr int kInvalidDevice = 101;
constexpr int kInvalidContext = 201;
constexpr int kInvalidHandle = 400;

constexpr int kDevices = 2;

struct Handle {
  char bytes[64];
};
struct Stream {
  std::vector<std::function<void()>> copies;
};

std::atomic<bool> started = false;
std::mutex mu;
int retained[kDevices];
std::map<unsigned long long, std::size_t> mapped;  // address -> bytes
thread_local std::vector<void*> current;

bool Fault(std::string_view name) {
  const char* fault = std::getenv("SIGLIP_FAKE_CUDA");
  return fault != nullptr && fault == name;
}

int CheckContext() {
  if (!started) return kNotInitialized;
  if (current.empty()) return kInvalidContext;
  return Fault("lost") ? kDeviceUnavailable : kSuccess;
}

bool IsMapped(unsigned long long address, std::size_t bytes) {
  for (const auto& [base, size] : mapped) {
    if (address >= base && address - base <= size && bytes <= size - (address - base)) return true;
  }
  return false;
}

int Enqueue(void* stream, unsigned long long address, std::size_t bytes,
            std::function<void()> copy) {
  if (const int result = CheckContext(); result != kSuccess) return result;
  const std::lock_guard lock(mu);
  if (!IsMapped(address, bytes)) return kInvalidValue;
  static_cast<Stream*>(stream)->copies.push_back(std::move(copy));
  return kSuccess;
}

void* PointerOf(unsigned long long address) {
  return reinterpret_cast<void*>(static_cast<std::uintptr_t>(address));
}

}  // namespace

extern "C" {

int cuInit(unsigned) {
  if (Fault("no_driver")) return kNoDevice;
  started = true;
  return kSuccess;
}

int cuGetErrorString(int result, const char** text) {
  *text = result == kDeviceUnavailable ? "the fake GPU is lost" : "an error of the fake driver";
  return kSuccess;
}

int cuDeviceGetCount(int* count) {
  *count = Fault("no_gpu") ? 0 : kDevices;
  return started ? kSuccess : kNotInitialized;
}

int cuDeviceGet(int* device, int ordinal) {
  if (ordinal < 0 || ordinal >= kDevices) return kInvalidDevice;
  *device = ordinal;
  return kSuccess;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
  const std::lock_guard lock(mu);
  ++retained[device];
  *context = &retained[device];
  return kSuccess;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
  const std::lock_guard lock(mu);
  if (retained[device] == 0) return kInvalidContext;
  --retained[device];
  return kSuccess;
}

int cuCtxPushCurrent_v2(void* context) {
  current.push_back(context);
  return kSuccess;
}

int cuCtxPopCurrent_v2(void** context) {
  if (current.empty()) return kInvalidContext;
  *context = current.back();
  current.pop_back();
  return kSuccess;
}

int cuStreamCreate(void** stream, unsigned) {
  if (current.empty()) return kInvalidContext;
  *stream = new Stream;
  return kSuccess;
}

int cuStreamDestroy_v2(void* stream) {
  if (current.empty()) return kInvalidContext;
  delete static_cast<Stream*>(stream);
  return kSuccess;
}

int cuStreamSynchronize(void* stream) {
  if (const int result = CheckContext(); result != kSuccess) return result;
  const std::lock_guard lock(mu);
  for (const auto& copy : static_cast<Stream*>(stream)->copies) copy();
  static_cast<Stream*>(stream)->copies.clear();
  return kSuccess;
}

int cuIpcOpenMemHandle_v2(unsigned long long* address, Handle handle, unsigned) {
  if (const int result = CheckContext(); result != kSuccess) return result;
  const std::string name(handle.bytes, strnlen(handle.bytes, sizeof handle.bytes));
  const int fd = ::shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) return kInvalidHandle;
  struct stat info {};
  const auto size = static_cast<std::size_t>(::fstat(fd, &info) == 0 ? info.st_size : 0);
  void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  if (memory == MAP_FAILED) return kInvalidValue;
  const std::lock_guard lock(mu);
  *address = reinterpret_cast<std::uintptr_t>(memory);
  mapped[*address] = size;
  return kSuccess;
}

int cuIpcCloseMemHandle(unsigned long long address) {
  if (current.empty()) return kInvalidContext;
  const std::lock_guard lock(mu);
  const auto found = mapped.find(address);
  if (found == mapped.end()) return kInvalidValue;
  ::munmap(PointerOf(address), found->second);
  mapped.erase(found);
  return kSuccess;
}

int cuMemGetAddressRange_v2(unsigned long long* base, std::size_t* size,
                            unsigned long long address) {
  const std::lock_guard lock(mu);
  const auto found = mapped.find(address);
  if (found == mapped.end()) return kInvalidValue;
  *base = found->first;
  *size = found->second;
  return kSuccess;
}

int cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, std::size_t bytes, void* stream) {
  return Enqueue(stream, from, bytes, [=] { std::memcpy(to, PointerOf(from), bytes); });
}

int cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from, std::size_t bytes, void* stream) {
  return Enqueue(stream, to, bytes, [=] { std::memcpy(PointerOf(to), from, bytes); });
}

// Of the stand-in alone: what has not been given back.
int fake_cuda_open_handles() {
  const std::lock_guard lock(mu);
  return static_cast<int>(mapped.size());
}

int fake_cuda_contexts() {
  const std::lock_guard lock(mu);
  int sum = 0;
  for (const int count : retained) sum += count;
  return sum;
}

}  // extern "C"
