#pragma once

// transformers' Siglip2Tokenizer over tokenizer.json: the tokenizer of SigLIP 2, whose vocabulary
// is Gemma's. Source: transformers 5.23.0 models/siglip2/tokenization_siglip2.py; tokenizers 0.23.3
// (run).

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe_model.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"

namespace siglip {

// What tokenizer.json says. Only what Gemma's has is understood; anything else is refused by name.
struct TokenizerJson {
  std::vector<AddedToken> added_tokens;
  BpeModel::Options model;
  std::vector<std::int64_t> prefix, suffix;  // ids that the post-processor puts around a text
  std::optional<TextSide> padding_side, truncation_side;
};

// InvalidArgument names the key and what was expected.
absl::StatusOr<TokenizerJson> ParseTokenizerJson(std::string_view text, const std::string& source);

class GemmaTokenizer final : public Tokenizer {
 public:
  // `json` is the content of tokenizer.json; `source` names it in errors.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(std::string_view json,
                                                           const std::string& source,
                                                           const TokenizerConfig& config,
                                                           std::int64_t max_position_embeddings,
                                                           std::int64_t vocab_size);
  std::string Describe() const override;

 private:
  GemmaTokenizer(TokenizerJson json, BpeModel model);
  absl::StatusOr<std::vector<std::int64_t>> EncodeIds(std::string_view text,
                                                      const GiveUp& give_up) const override;

  // Those of the files, then those that have a name.
  absl::Status AddTokens(const TokenizerConfig& config);
  absl::StatusOr<std::int64_t> IdOf(const std::string& content) const;
  // Appends the ids of added tokens, and calls plain(part) for what lies between them, in order.
  template <class Plain>
  void Split(const AddedTokenMatcher& matcher, std::u32string_view text,
             std::vector<std::int64_t>& ids, const Plain& plain) const;

  TokenizerJson json_;  // its model and its added tokens are moved from
  BpeModel model_;
  std::vector<AddedToken> added_;
  AddedTokenMatcher raw_, normalized_;  // of added_, by index
  bool split_special_tokens_ = false;
};

}  // namespace siglip
