// Any bytes as text: never a crash, always T ids within the vocabulary or an error about UTF-8.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto tokenizer = *siglip::Tokenizer::Open("tests/golden/text/bpe", 64, 1000);
  const auto ids = tokenizer->Encode({reinterpret_cast<const char*>(data), size});
  if (!ids.ok()) return 0;
  if (ids->size() != 64) std::abort();
  for (const std::int64_t id : *ids) {
    if (id < 0 || id >= 1000) std::abort();
  }
  return 0;
}
