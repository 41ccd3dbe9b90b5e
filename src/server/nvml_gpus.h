#pragma once

// What NVIDIA's management library (NVML) tells of the machine's GPUs, for the metrics door. The
// library comes with the driver and is looked for at run time: building needs nothing of NVIDIA's.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "base/mutex.h"

namespace siglip {

// One GPU at one moment. What the GPU does not tell is empty.
struct GpuReading {
  std::string uuid;                   // "GPU-..."
  std::optional<double> utilization;  // 0 to 1, of the driver's last sampling period
  std::optional<double> memory_total_bytes;
  std::optional<double> memory_used_bytes;  // with what the driver keeps for itself
  std::optional<double> power_usage_w;
  std::optional<double> power_limit_w;
  std::optional<double> energy_j;  // since Open, as Triton counts it; never falls
};

// All GPUs that NVML shows: CUDA_VISIBLE_DEVICES is nothing to it, a container's devices are.
// Thread-safe.
class NvmlGpus {
 public:
  // FailedPrecondition, with the reason, if `library`, a path or a name for dlopen, cannot be
  // loaded or started. A GPU that cannot be opened now is not told of later either.
  static absl::StatusOr<std::unique_ptr<NvmlGpus>> Open(
      const std::string& library = "libnvidia-ml.so.1");
  ~NvmlGpus();

  // Asks the driver, and takes as long as it does. Of a GPU that is lost the UUID alone is left.
  std::vector<GpuReading> Read();

 private:
  struct Library;
  struct Gpu;
  NvmlGpus(std::unique_ptr<const Library> library, std::vector<Gpu> gpus);

  const std::unique_ptr<const Library> library_;
  Mutex mu_;
  std::vector<Gpu> gpus_ SIGLIP_GUARDED_BY(mu_);
};

}  // namespace siglip
