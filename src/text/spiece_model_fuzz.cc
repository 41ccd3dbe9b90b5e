// Any bytes as spiece.model: refused, or a tokenizer whose ids lie in the vocabulary. Past the
// check it is libsentencepiece that reads them.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "text/sentencepiece_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::int64_t kVocabulary = 1000;
  const std::string_view model(reinterpret_cast<const char*>(data), size);
  static const siglip::TokenizerConfig config =
      siglip::DefaultTokenizerConfig(siglip::TokenizerKind::kSiglip);
  const auto tokenizer =
      siglip::SentencePieceTokenizer::Create(model, "fuzz", config, 16, kVocabulary);
  if (!tokenizer.ok()) return 0;
  // The seeds' tries have keys of these, and of nothing else.
  for (const char* text : {"", "a b", "aaab ab ba</s>a", "\xce\xa3 \xf0\x9f\x90\x88 a\xcc\x81"}) {
    const auto ids = (*tokenizer)->Encode(text);
    if (!ids.ok()) continue;
    if (ids->size() != 16) std::abort();
    for (const std::int64_t id : *ids) {
      if (id < 0 || id >= kVocabulary) std::abort();
    }
  }
  return 0;
}
