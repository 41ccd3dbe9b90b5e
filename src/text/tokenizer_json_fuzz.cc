// Any bytes as tokenizer.json: refused, or a tokenizer whose ids lie in the vocabulary.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "text/gemma_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::int64_t kVocabulary = 1000;
  static const siglip::TokenizerConfig config =
      siglip::DefaultTokenizerConfig(siglip::TokenizerKind::kSiglip2);
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = siglip::GemmaTokenizer::Create(json, "fuzz", config, 16, kVocabulary);
  if (!tokenizer.ok()) return 0;
  for (const char* text : {"", "a b", "abab <eos> A\xce\xa3 \xf0\x9f\x90\x88"}) {
    const auto ids = (*tokenizer)->Encode(text);
    if (!ids.ok() || ids->size() != 16) std::abort();
    for (const std::int64_t id : *ids) {
      if (id < 0 || id >= kVocabulary) std::abort();
    }
  }
  return 0;
}
