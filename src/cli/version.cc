#include "cli/version.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bulk/parquet.h"
#include "engine/cuda/devices.h"
#include "image/preprocess.h"
#include "kernels/target.h"

namespace siglip::cli {
namespace {

std::string GpuText() {
  const auto devices = ListGpuDevices();
  if (!devices.ok()) return std::string(devices.status().message());
  std::string text;
  for (const GpuDevice& device : *devices) {
    absl::StrAppend(&text, text.empty() ? "" : "; ", device.ordinal, " ", device.name, " sm_",
                    device.compute_capability);
  }
  return text.empty() ? "none" : text;
}

}  // namespace

std::string VersionNumber() { return SIGLIP_VERSION; }
std::string VersionCommit() { return SIGLIP_COMMIT; }

std::string VersionText() {
  return absl::StrCat("siglip ", SIGLIP_VERSION, " (commit ", SIGLIP_COMMIT,
                      ")\ncompiler: ", SIGLIP_COMPILER, "\ncodecs: ", CodecVersions(), ", resize ",
                      ResizeTargetName(), "\nparquet: ", bulk::ParquetVersion(),
                      "\nkernels: ", absl::StrJoin(KernelTargets(), ", "),
                      " (the first is used)\ngpus: ", GpuText());
}

}  // namespace siglip::cli
