// Any bytes as tokenizer_config.json, special_tokens_map.json and added_tokens.json, with a line
// feed and a zero between them: refused, or tokens of which each has a content that is not too
// long.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "text/tokenizer_config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  siglip::TokenizerFiles files;
  files.directory = "fuzz";
  for (auto* file : {&files.tokenizer_config, &files.special_tokens_map, &files.added_tokens}) {
    const std::size_t end = text.find(std::string_view("\n\0", 2));
    file->emplace(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 2);
  }
  for (const auto kind : {siglip::TokenizerKind::kSiglip, siglip::TokenizerKind::kSiglip2}) {
    const auto config = siglip::ParseTokenizerConfig(files, kind);
    if (!config.ok()) continue;
    for (const auto* tokens : {&config->special_tokens, &config->added_tokens}) {
      for (const siglip::AddedToken& token : *tokens) {
        if (token.content.size() > siglip::kMaxAddedTokenBytes) std::abort();
      }
    }
    for (const siglip::AddedToken& token : config->added_tokens) {
      if (token.id < 0) std::abort();
    }
    if (config->num_named > config->special_tokens.size()) std::abort();
    if (config->model_max_length < 1) std::abort();
  }
  return 0;
}
