#include "serving/step.h"

#include "base/aligned_buffer.h"

namespace siglip {

OutputMemory Step::AllocateOutput(std::size_t bytes) {
  auto buffer = std::make_shared<AlignedBuffer<std::byte>>(bytes);
  return {.bytes = buffer->span(), .owner = buffer};
}

}  // namespace siglip
