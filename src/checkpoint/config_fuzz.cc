// Any bytes as config.json and as preprocessor_config.json: refused, or sizes that multiply without
// overflow.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/checked_math.h"
#include "checkpoint/checkpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)siglip::ParsePreprocessorConfig(text, "fuzz");
  (void)siglip::ParseNaflexPreprocessorConfig(text, "fuzz");
  const auto config = siglip::ParseSiglipConfig(text, "fuzz");
  if (!config.ok() || config->vision.num_hidden_layers + config->text.num_hidden_layers > 8)
    return 0;
  for (const siglip::RequiredTensor& tensor : siglip::RequiredTensors(*config)) {
    if (!siglip::ElementCount(tensor.shape)) std::abort();
  }
  return 0;
}
