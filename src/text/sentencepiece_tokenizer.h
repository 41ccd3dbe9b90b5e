#pragma once

// transformers' SiglipTokenizer over spiece.model: the tokenizer of SigLIP 1.
// Source: transformers 5.23.0 models/siglip/tokenization_siglip.py and tokenization_python.py.

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "text/added_tokens.h"
#include "text/piece_model.h"
#include "text/tokenizer.h"
#include "text/tokenizer_config.h"

namespace siglip {

class SentencePieceTokenizer final : public Tokenizer {
 public:
  // `model` is the content of spiece.model; `source` names it in errors.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(std::string_view model,
                                                           const std::string& source,
                                                           const TokenizerConfig& config,
                                                           std::int64_t max_position_embeddings,
                                                           std::int64_t vocab_size);
  std::string Describe() const override;

 private:
  absl::StatusOr<std::vector<std::int64_t>> EncodeIds(std::string_view text,
                                                      const GiveUp& give_up) const override;
  // A part of the raw text: an added token, or plain text.
  struct Part {
    const AddedToken* token = nullptr;
    std::u32string text;
  };
  Part MakePart(std::u32string text) const;

  bool IsPiece(const std::string& content) const;
  // The id of the first token that is none of the pieces and has none from the files.
  std::int64_t FirstNewId() const;
  // Of config_.
  absl::Status AddTokens(const std::string& source);
  std::vector<Part> SplitAtAddedTokens(std::u32string_view text) const;
  void StripNextToTokens(std::vector<Part>& parts) const;
  // Appends the pieces of plain text; of a long one, if the rest is to be cut off, not all.
  absl::Status AppendPieces(const std::u32string& text, const GiveUp& give_up,
                            std::vector<std::string>& pieces) const;
  struct Encoded {
    std::vector<PieceModel::Piece> pieces;
    // What is unknown at the beginning, if <unk>'s own last piece is unknown too: the class drops
    // it with the pieces of <unk>.
    std::string dropped;
  };
  // Of text in canonical form.
  absl::StatusOr<Encoded> Encode(std::u32string_view text) const;
  // The text in normal form if it is one unknown piece, else nothing.
  std::string UnknownForm(std::u32string_view text) const;
  // The next place after `first` where a long text may be cut, so that the pieces of both sides are
  // those of the whole, but for unknown ones that go on.
  std::size_t FindCut(std::u32string_view text, std::size_t first) const;
  // Whether all further pieces will be cut off.
  bool Enough(const std::vector<std::string>& pieces) const;
  std::int64_t IdOfPiece(const std::string& piece) const;

  std::unique_ptr<PieceModel> model_;
  TokenizerConfig config_;
  std::vector<AddedToken> added_;                       // found in texts
  AddedTokenMatcher matcher_;                           // of added_, by index
  std::unordered_map<std::string, std::size_t> index_;  // of added_, by content
  // Those with a name and the extra ones; what the files call special does not count.
  std::unordered_set<std::string> special_;
  std::size_t unk_length_ = 0;    // pieces of encode(unk_token)
  std::string unk_end_;           // the last of them, if it is unknown
  bool words_are_apart_ = false;  // no piece has a space after another character
};

}  // namespace siglip
