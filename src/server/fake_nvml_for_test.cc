// Stands in for the driver's libnvidia-ml.so.1. Of three GPUs the first tells everything, the
// second its memory alone, and the third cannot be opened. SIGLIP_FAKE_NVML, read at each call,
// says what is wrong: no_driver (the start fails), lost (the first GPU fell off the bus), reset
// (its energy is counted anew).

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace {

// nvmlReturn_t
constexpr int kSuccess = 0;
constexpr int kUninitialized = 1;
constexpr int kNotSupported = 3;
constexpr int kInsufficientSize = 7;
constexpr int kDriverNotLoaded = 9;
constexpr int kGpuIsLost = 15;

int starts = 0;
unsigned long long energy_mj = 9'000'000;

bool Fault(std::string_view name) {
  const char* fault = std::getenv("SIGLIP_FAKE_NVML");
  return fault != nullptr && fault == name;
}

// Handles are index + 1.
template <typename T>
int Answer(void* device, T* place, T value) {
  if (starts == 0) return kUninitialized;
  if (reinterpret_cast<std::uintptr_t>(device) != 1) return kNotSupported;
  if (Fault("lost")) return kGpuIsLost;
  *place = value;
  return kSuccess;
}

struct Utilization {
  unsigned gpu;
  unsigned memory;
};

struct Memory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};

}  // namespace

extern "C" {

int nvmlInit_v2() {
  if (Fault("no_driver")) return kDriverNotLoaded;
  ++starts;
  return kSuccess;
}

int nvmlShutdown() {
  if (starts == 0) return kUninitialized;
  --starts;
  return kSuccess;
}

int nvmlDeviceGetCount_v2(unsigned* count) {
  if (starts == 0) return kUninitialized;
  *count = 3;
  return kSuccess;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  if (index == 2) return kGpuIsLost;
  *device = reinterpret_cast<void*>(std::uintptr_t{index} + 1);
  return kSuccess;
}

int nvmlDeviceGetUUID(void* device, char* uuid, unsigned bytes) {
  char text[] = "GPU-00000000-0000-0000-0000-000000000000";
  if (bytes < sizeof text) return kInsufficientSize;
  text[sizeof text - 2] = static_cast<char>('0' + reinterpret_cast<std::uintptr_t>(device));
  std::memcpy(uuid, text, sizeof text);
  return kSuccess;
}

int nvmlDeviceGetUtilizationRates(void* device, Utilization* rates) {
  return Answer(device, rates, {.gpu = 37, .memory = 12});
}

int nvmlDeviceGetMemoryInfo(void* device, Memory* memory) {
  if (Fault("lost") && reinterpret_cast<std::uintptr_t>(device) == 1) return kGpuIsLost;
  *memory = {.total = 150'754'820'096, .free = 90'000'000'000, .used = 60'754'820'096};
  return kSuccess;
}

int nvmlDeviceGetPowerUsage(void* device, unsigned* milliwatts) {
  return Answer(device, milliwatts, 412'345U);
}

int nvmlDeviceGetPowerManagementLimit(void* device, unsigned* milliwatts) {
  return Answer(device, milliwatts, 700'000U);
}

int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* millijoules) {
  const unsigned long long now = Fault("reset") ? 7 : energy_mj + 1'500;
  const int result = Answer(device, millijoules, now);
  if (result == kSuccess) energy_mj = now;
  return result;
}

}  // extern "C"
