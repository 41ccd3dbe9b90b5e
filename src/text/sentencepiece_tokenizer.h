#pragma once

// transformers' SiglipTokenizer over spiece.model: the tokenizer of SigLIP 1.
// Source: transformers 5.23.0 models/siglip/tokenization_siglip.py and tokenization_python.py.

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/piece_model.h"
#include "text/tokenizer.h"

namespace siglip {

// A token that is found in the raw text, before anything else is done to it.
struct AddedToken {
  std::string content;
  std::int64_t id = 0;
  bool lstrip = true;  // white space next to it goes; true is SiglipTokenizer's own default
  bool rstrip = true;
  bool special = true;
};

// What tokenizer_config.json says, with the class defaults.
struct SiglipTokenizerConfig {
  std::string eos_token = "</s>";
  std::string unk_token = "<unk>";
  std::string pad_token = "</s>";
  bool do_lower_case = true;
  // 16 in one published file; 10^30 (no limit) in others, then the positions limit it.
  std::int64_t model_max_length = 64;
  std::optional<TextSide> padding_side, truncation_side;
  bool split_special_tokens = false;  // those in a text are ordinary characters
  // By id, as `added_tokens_decoder` lists them; the three above are added if they are not in it.
  std::vector<AddedToken> added_tokens;
};

// What the file does not say is as in `defaults`. InvalidArgument names the key.
absl::StatusOr<SiglipTokenizerConfig> ParseSiglipTokenizerConfig(std::string_view json,
                                                                 const std::string& source,
                                                                 SiglipTokenizerConfig defaults);

class SentencePieceTokenizer final : public Tokenizer {
 public:
  // `model` is the content of spiece.model; `source` names it in errors.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(std::string_view model,
                                                           const std::string& source,
                                                           const SiglipTokenizerConfig& config,
                                                           std::int64_t max_position_embeddings,
                                                           std::int64_t vocab_size);
  absl::StatusOr<std::vector<std::int64_t>> EncodeUnpadded(std::string_view text) const override;
  std::string Describe() const override;

 private:
  // A part of the raw text: an added token, or plain text.
  struct Part {
    const AddedToken* token = nullptr;
    std::u32string text;
  };

  std::vector<Part> SplitAtAddedTokens(std::u32string_view text) const;
  // Appends the pieces of plain text.
  absl::Status AppendPieces(const std::u32string& text, std::vector<std::string>& pieces) const;
  std::int64_t IdOfPiece(const std::string& piece) const;

  std::unique_ptr<PieceModel> model_;
  SiglipTokenizerConfig config_;
  AddedTokenMatcher matcher_;  // of config_.added_tokens, by index
  std::map<std::string, std::int64_t, std::less<>> added_ids_;
  std::size_t unk_length_ = 0;  // pieces of encode(unk_token)
};

}  // namespace siglip
