// Any bytes as a safetensors file: refused, or every tensor lies inside the file and has the size
// of its shape.

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

#include "base/checked_math.h"
#include "checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string path = "/tmp/safetensors_fuzz." + std::to_string(getpid());
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  const auto file = siglip::SafetensorsFile::Open(path);
  if (!file.ok()) return 0;
  std::size_t covered = 0;
  for (const auto& [name, tensor] : file->tensors()) {
    const auto count = siglip::ElementCount(tensor.shape);
    if (!count) std::abort();
    if (static_cast<std::size_t>(*count) * siglip::DtypeSizeBytes(tensor.dtype) !=
        tensor.bytes.size()) {
      std::abort();
    }
    for (const std::byte byte : tensor.bytes) covered += byte != std::byte{0};  // read every byte
  }
  if (covered > size) std::abort();
  return 0;
}
