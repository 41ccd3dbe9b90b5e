// A config.pbtxt: what is accepted must render.
#include <cstdint>

#include "base/check.h"
#include "protocol/model_config.h"
#include "protocol/protobuf_log.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  siglip::QuietProtobuf();
  const auto config = siglip::ParseModelConfig({reinterpret_cast<const char*>(data), size}, "f");
  if (config.ok()) SIGLIP_CHECK(!siglip::ModelConfigJson(*config).empty());
  return 0;
}
