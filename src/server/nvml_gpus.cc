#include "server/nvml_gpus.h"

#include <array>
#include <utility>

#include "base/dynamic_library.h"
#include "base/status_macros.h"
#include "protocol/text.h"

namespace siglip {
namespace {

// What is used of NVIDIA's nvml.h. Its ABI stays: a call that changes gets another suffix.
using NvmlDevice = void*;
constexpr int kNvmlSuccess = 0;
constexpr unsigned kNvmlUuidBytes = 96;  // NVML_DEVICE_UUID_V2_BUFFER_SIZE
struct NvmlUtilization {                 // percent
  unsigned gpu;
  unsigned memory;
};
struct NvmlMemory {  // bytes
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};
template <typename T>
using NvmlQuery = int (*)(NvmlDevice, T*);

template <typename T>
std::optional<T> Ask(NvmlQuery<T> query, NvmlDevice device) {
  T value{};
  if (query(device, &value) != kNvmlSuccess) return std::nullopt;
  return value;
}

std::optional<double> WattsOf(std::optional<unsigned> milliwatts) {
  if (!milliwatts) return std::nullopt;
  return *milliwatts / 1000.0;
}

absl::Status NvmlError(const char* call, int code) {
  return absl::FailedPreconditionError(Concat(call, ": error ", code, " of NVML"));
}

}  // namespace

struct NvmlGpus::Library {
  Library() = default;
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  ~Library() {
    if (started) shutdown();
  }

  static absl::StatusOr<std::unique_ptr<Library>> Load(const std::string& name);

  DynamicLibrary library;
  bool started = false;
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*count)(unsigned*) = nullptr;
  int (*device)(unsigned index, NvmlDevice*) = nullptr;
  int (*uuid)(NvmlDevice, char*, unsigned bytes) = nullptr;
  NvmlQuery<NvmlUtilization> utilization = nullptr;
  NvmlQuery<NvmlMemory> memory = nullptr;
  NvmlQuery<unsigned> power_usage_mw = nullptr;
  NvmlQuery<unsigned> power_limit_mw = nullptr;
  NvmlQuery<unsigned long long> energy_mj = nullptr;  // since the driver was loaded
};

absl::StatusOr<std::unique_ptr<NvmlGpus::Library>> NvmlGpus::Library::Load(
    const std::string& name) {
  auto nvml = std::make_unique<Library>();
  SIGLIP_ASSIGN_OR_RETURN(nvml->library, DynamicLibrary::Open(name));
  nvml->library.Find("nvmlInit_v2", nvml->init);
  nvml->library.Find("nvmlShutdown", nvml->shutdown);
  nvml->library.Find("nvmlDeviceGetCount_v2", nvml->count);
  nvml->library.Find("nvmlDeviceGetHandleByIndex_v2", nvml->device);
  nvml->library.Find("nvmlDeviceGetUUID", nvml->uuid);
  nvml->library.Find("nvmlDeviceGetUtilizationRates", nvml->utilization);
  nvml->library.Find("nvmlDeviceGetMemoryInfo", nvml->memory);
  nvml->library.Find("nvmlDeviceGetPowerUsage", nvml->power_usage_mw);
  // Of the two limits the one that Triton's field of DCGM is: what was set, not what is enforced.
  nvml->library.Find("nvmlDeviceGetPowerManagementLimit", nvml->power_limit_mw);
  nvml->library.Find("nvmlDeviceGetTotalEnergyConsumption", nvml->energy_mj);
  SIGLIP_RETURN_IF_ERROR(nvml->library.Complete());
  if (const int code = nvml->init(); code != kNvmlSuccess) return NvmlError("nvmlInit_v2", code);
  nvml->started = true;
  return nvml;
}

struct NvmlGpus::Gpu {
  // Joules since the first answer. The driver's counter starts anew when a GPU is reset.
  std::optional<double> CountEnergy(std::optional<unsigned long long> now_mj) {
    if (!now_mj) return std::nullopt;
    if (last_mj && *now_mj > *last_mj) counted_mj += *now_mj - *last_mj;
    last_mj = now_mj;
    return static_cast<double>(counted_mj) / 1000;
  }

  NvmlDevice device;
  std::string uuid;
  std::optional<unsigned long long> last_mj = {};
  unsigned long long counted_mj = 0;
};

absl::StatusOr<std::unique_ptr<NvmlGpus>> NvmlGpus::Open(const std::string& library) {
  SIGLIP_ASSIGN_OR_RETURN(std::unique_ptr<Library> nvml, Library::Load(library));
  unsigned count = 0;
  if (const int code = nvml->count(&count); code != kNvmlSuccess) {
    return NvmlError("nvmlDeviceGetCount_v2", code);
  }
  std::vector<Gpu> gpus;
  for (unsigned i = 0; i < count; ++i) {
    NvmlDevice device = nullptr;
    std::array<char, kNvmlUuidBytes> uuid{};
    if (nvml->device(i, &device) != kNvmlSuccess) continue;
    if (nvml->uuid(device, uuid.data(), kNvmlUuidBytes) != kNvmlSuccess) continue;
    gpus.push_back({.device = device, .uuid = uuid.data()});
    gpus.back().CountEnergy(Ask(nvml->energy_mj, device));
  }
  return std::unique_ptr<NvmlGpus>(new NvmlGpus(std::move(nvml), std::move(gpus)));
}

NvmlGpus::NvmlGpus(std::unique_ptr<const Library> library, std::vector<Gpu> gpus)
    : library_(std::move(library)), gpus_(std::move(gpus)) {}

NvmlGpus::~NvmlGpus() = default;

std::vector<GpuReading> NvmlGpus::Read() {
  MutexLock lock(mu_);
  std::vector<GpuReading> readings;
  for (Gpu& gpu : gpus_) {
    GpuReading& reading = readings.emplace_back();
    reading.uuid = gpu.uuid;
    if (const auto utilization = Ask(library_->utilization, gpu.device)) {
      reading.utilization = utilization->gpu / 100.0;
    }
    if (const auto memory = Ask(library_->memory, gpu.device)) {
      reading.memory_total_bytes = static_cast<double>(memory->total);
      reading.memory_used_bytes = static_cast<double>(memory->used);
    }
    reading.power_usage_w = WattsOf(Ask(library_->power_usage_mw, gpu.device));
    reading.power_limit_w = WattsOf(Ask(library_->power_limit_mw, gpu.device));
    reading.energy_j = gpu.CountEnergy(Ask(library_->energy_mj, gpu.device));
  }
  return readings;
}

}  // namespace siglip
