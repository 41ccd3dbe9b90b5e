#pragma once

// UTF-8 text -> token ids, equal to transformers' SiglipTokenizer and Siglip2Tokenizer. The only
// entry to src/text.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace siglip {

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

  // Exactly T ids: cut to T-1 and EOS, padded on the right. This is what the models were trained
  // on. InvalidArgument with the byte offset if the text is not UTF-8. Never an error for empty
  // text.
  absl::StatusOr<std::vector<std::int64_t>> Encode(std::string_view text) const;

  // The same ids without the padding, 1..T of them. For the validation table's no-padding row
  // alone.
  virtual absl::StatusOr<std::vector<std::int64_t>> EncodeUnpadded(std::string_view text) const = 0;

  // "SiglipTokenizer, sentencepiece, 32000 pieces", for `siglip inspect`.
  virtual std::string Describe() const = 0;

 protected:
  std::int64_t text_length_ = 0;
  std::int64_t pad_id_ = 0;
  std::int64_t eos_id_ = 0;
};

}  // namespace siglip
