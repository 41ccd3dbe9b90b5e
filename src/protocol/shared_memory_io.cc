#include "protocol/shared_memory_io.h"

#include "base/status_macros.h"
#include "protocol/tensor_bytes.h"
#include "protocol/text.h"

namespace siglip {
namespace {

absl::Status CheckRegions(const SharedMemoryRegions* regions) {
  if (regions != nullptr) return absl::OkStatus();
  return absl::UnimplementedError("shared memory is not offered here");
}

}  // namespace

absl::Status SharedInputs::Read(const SharedMemorySlice& slice, InputTensor& tensor) {
  SIGLIP_RETURN_IF_ERROR(CheckRegions(regions_));
  SIGLIP_ASSIGN_OR_RETURN(const auto bytes, regions_->Read(slice, read_bytes_));
  read_bytes_ += slice.byte_size;
  tensor.storage = bytes;
  return SetInputBytes({reinterpret_cast<const char*>(bytes->data()), bytes->size()}, tensor);
}

absl::Status CheckSharedOutput(const SharedMemoryRegions* regions, const RequestedOutput& output,
                               const SharedMemorySlice& slice) {
  SIGLIP_RETURN_IF_ERROR(CheckRegions(regions));
  if (output.classification > 0) {
    return absl::InvalidArgumentError(
        Concat("output '", output.name,
               "': expected either 'classification' or 'shared_memory_region', got both"));
  }
  return regions->CheckSlice(slice);
}

void WriteSharedOutputs(const SharedMemoryRegions* regions, const SharedMemorySlices& slices,
                        InferResponse& response) {
  if (slices.empty() || !response.status.ok()) return;
  for (OutputTensor& output : response.outputs) {
    const auto slice = slices.find(output.name);
    if (slice == slices.end()) continue;
    response.status = regions->Write(slice->second, output);
    if (!response.status.ok()) return;
    output.data = {};
  }
}

}  // namespace siglip
