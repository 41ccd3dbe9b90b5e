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

// Sets the tensor's data or elements to a copy of the slice. REQUIRES: name, datatype and shape are
// set. Errors name the region and the limits. Null regions refuse.
absl::Status ReadSharedInput(const SharedMemoryRegions* regions, const SharedMemorySlice& slice,
                             InputTensor& tensor);
// InvalidArgument for a slice that is not there, or together with a classification.
absl::Status CheckSharedOutput(const SharedMemoryRegions* regions, const RequestedOutput& output,
                               const SharedMemorySlice& slice);
// Writes the outputs that are named, and empties them; an error becomes the response's status.
void WriteSharedOutputs(const SharedMemoryRegions* regions, const SharedMemorySlices& slices,
                        InferResponse& response);

}  // namespace siglip
