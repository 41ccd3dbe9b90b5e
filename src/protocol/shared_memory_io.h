#pragma once

// Tensors in shared memory, the same for both doors.

#include <map>
#include <string>

#include "absl/status/status.h"
#include "serving/request.h"
#include "serving/shared_memory.h"

namespace siglip {

// Where outputs go, by name.
using SharedMemorySlices = std::map<std::string, SharedMemorySlice, std::less<>>;

// The inputs of one request that lie in shared memory. Null regions refuse.
class SharedInputs {
 public:
  explicit SharedInputs(const SharedMemoryRegions* regions) : regions_(regions) {}

  // Sets the tensor's data or elements to a copy of the slice. REQUIRES: name, datatype and shape
  // are set. Errors name the region and the limits: all copies together are bounded as one is.
  absl::Status Read(const SharedMemorySlice& slice, InputTensor& tensor);

 private:
  const SharedMemoryRegions* const regions_;
  std::uint64_t read_bytes_ = 0;
};

// InvalidArgument for a slice that is not there, or together with a classification.
absl::Status CheckSharedOutput(const SharedMemoryRegions* regions, const RequestedOutput& output,
                               const SharedMemorySlice& slice);
// Writes the outputs that are named, and empties them; an error becomes the response's status.
void WriteSharedOutputs(const SharedMemoryRegions* regions, const SharedMemorySlices& slices,
                        InferResponse& response);

}  // namespace siglip
