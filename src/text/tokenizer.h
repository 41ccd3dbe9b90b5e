#pragma once

// UTF-8 text -> token ids, equal to transformers' SiglipTokenizer and Siglip2Tokenizer. The only
// entry to src/text.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace siglip {

// Where ids are added to a short text, or taken from a long one.
enum class TextSide { kRight, kLeft };

// Whether nobody waits for a text's ids any more. Asked every few milliseconds while a long text is
// encoded; may be empty.
using GiveUp = std::function<bool()>;

// Ids of a text, and how many of them there are without the padding.
struct PaddedIds {
  std::vector<std::int64_t> ids;
  std::int64_t unpadded = 0;
};

// Thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Opens the tokenizer of a snapshot folder: spiece.model (SigLIP 1) or else tokenizer.json
  // (SigLIP 2); tokenizer_config.json. Errors name the file and what was expected.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Open(const std::string& directory,
                                                         std::int64_t max_position_embeddings,
                                                         std::int64_t vocab_size);

  // T: the smaller of model_max_length and max_position_embeddings.
  std::int64_t text_length() const { return text_length_; }
  std::int64_t pad_id() const { return pad_id_; }
  std::int64_t eos_id() const { return eos_id_; }

  // Exactly T ids: cut to T-1 and EOS, padded, on the sides that the files say (published ones: the
  // right). This is what the models were trained on. InvalidArgument with the byte offset if the
  // text is not UTF-8. Never an error for empty text.
  absl::StatusOr<std::vector<std::int64_t>> Encode(std::string_view text) const;
  // Likewise; Cancelled once `give_up` says so.
  absl::StatusOr<PaddedIds> Encode(std::string_view text, const GiveUp& give_up) const;

  // The same ids without the padding, 1..T of them. For the validation table's no-padding row
  // alone.
  absl::StatusOr<std::vector<std::int64_t>> EncodeUnpadded(std::string_view text) const {
    return EncodeIds(text, {});
  }

  // "SiglipTokenizer (SentencePiece, 32000 pieces), T = 64, EOS 1, PAD 1 on the right", for `siglip
  // inspect`.
  virtual std::string Describe() const = 0;

 protected:
  // EncodeUnpadded; Cancelled once `give_up` says so.
  virtual absl::StatusOr<std::vector<std::int64_t>> EncodeIds(std::string_view text,
                                                              const GiveUp& give_up) const = 0;
  static absl::Status GivenUp() { return absl::CancelledError("the text was given up"); }
  // Takes ids, or pieces, from the side of truncation until at most `room` are left.
  template <class Id>
  void Cut(std::size_t room, std::vector<Id>& ids) const {
    if (ids.size() <= room) return;
    const auto extra = static_cast<std::ptrdiff_t>(ids.size() - room);
    const auto first = truncation_side_ == TextSide::kLeft ? ids.begin() : ids.end() - extra;
    ids.erase(first, first + extra);
  }
  // T, EOS, PAD and the sides, as Describe ends.
  std::string DescribeIds() const;
  // The class gives new ids to special tokens that the vocabulary lacks; the text tower may have no
  // embedding for them, which is an error if a text has one, and at load for EOS and PAD.
  absl::Status CheckIds(std::span<const std::int64_t> ids) const;
  absl::Status CheckEosAndPad(const std::string& source) const;

  std::int64_t text_length_ = 0;
  std::int64_t pad_id_ = 0;
  std::int64_t eos_id_ = 0;
  std::int64_t vocab_size_ = 0;
  TextSide padding_side_ = TextSide::kRight;
  TextSide truncation_side_ = TextSide::kRight;
};

}  // namespace siglip
