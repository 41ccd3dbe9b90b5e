#pragma once

// tokenizer_config.json, and the older files beside it, as transformers 5.23.0 reads them
// (tokenization_utils_base.py, _from_pretrained).

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "text/tokenizer.h"

namespace siglip {

// Whose rules: SiglipTokenizer's over spiece.model, or Siglip2Tokenizer's over tokenizer.json.
enum class TokenizerKind { kSiglip, kSiglip2 };

// Finding one takes as many steps; Gemma's longest has 93 bytes.
inline constexpr std::size_t kMaxAddedTokenBytes = 1024;

// A token that is found in the raw text, before anything else is done to it.
struct AddedToken {
  std::string content;
  std::int64_t id = -1;  // -1: the class decides
  bool lstrip = false;   // white space next to it goes
  bool rstrip = false;
  // Found in the normalised text, not in the raw one (SigLIP 2).
  std::optional<bool> normalized;
  bool special = false;

  bool is_normalized() const { return normalized.value_or(!special); }
};

struct TokenizerConfig {
  TokenizerKind kind = TokenizerKind::kSiglip;
  std::string eos_token, unk_token, pad_token;
  // The named tokens, those three among them, and the extra ones, in the order in which the class
  // gives ids to those that have none. A content may be there twice.
  std::vector<AddedToken> special_tokens;
  std::size_t num_named = 0;  // of special_tokens, at its front
  // With ids, by id. Of added_tokens_decoder; if there is none, of added_tokens.json, and the
  // tokens of tokenizer.json are to be added (AddTokensOfTokenizerJson).
  std::vector<AddedToken> added_tokens;
  bool has_added_tokens_decoder = false;
  bool do_lower_case = true;  // SigLIP 2 does always
  // 16 in one published file; 10^30 (no limit) in others, then the positions limit it.
  std::int64_t model_max_length = 64;
  std::optional<TextSide> padding_side, truncation_side;
  bool split_special_tokens = false;  // those in a text are ordinary characters
};

// The contents of the files that a folder may have.
struct TokenizerFiles {
  std::string directory;  // for errors
  std::optional<std::string> tokenizer_config, special_tokens_map, added_tokens;
};

// What no file says is as in the class. InvalidArgument names the file and the key.
absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(const TokenizerFiles& files,
                                                     TokenizerKind kind);

// Without any file.
TokenizerConfig DefaultTokenizerConfig(TokenizerKind kind);

// Later ones take the place of earlier ones of the same id, as in transformers. Nothing is done if
// there is an added_tokens_decoder.
void AddTokensOfTokenizerJson(std::vector<AddedToken> tokens, TokenizerConfig& config);

// "added_tokens" of tokenizer.json, of which nothing else is read.
absl::StatusOr<std::vector<AddedToken>> ParseAddedTokensOfTokenizerJson(std::string_view text,
                                                                        const std::string& source);

}  // namespace siglip
