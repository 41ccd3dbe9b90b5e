// The first byte is the expected count, the rest a BYTES tensor's wire form.
#include <cstdint>

#include "base/check.h"
#include "protocol/tensor_bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::vector<std::string_view> elements;
  if (!siglip::SplitByteElements(bytes, data[0], elements).ok()) return 0;
  std::size_t total = 0;
  for (const std::string_view element : elements) total += element.size() + 4;
  SIGLIP_CHECK(total == bytes.size() && elements.size() == data[0]);
  return 0;
}
