#pragma once

// Byte-pair encoding over a whole text, as the tokenizers library's BPE with byte_fallback and
// fuse_unk does it: a character without a piece becomes its bytes, <0x00> to <0xFF>, and if one of
// these has none, a run of such characters is one unk_token.
// Source: tokenizers 0.23.3 models/bpe (behaviour, found by running it).

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace siglip {

// Thread-safe once made.
class BpeModel {
 public:
  using Id = std::int32_t;
  struct Options {
    std::vector<std::pair<std::string, Id>> vocabulary;
    // Left and right piece; earlier ones are applied first.
    std::vector<std::pair<std::string, std::string>> merges;
    std::string unk_token;  // empty: characters without a piece vanish
  };
  // InvalidArgument names the piece, or the number of the merge, that is not in the vocabulary, or
  // the id that is negative or taken.
  static absl::StatusOr<BpeModel> Create(const Options& options);

  // Appends the ids of `text`, which is valid UTF-8. O(n log n).
  void Encode(std::string_view text, std::vector<std::int64_t>& ids) const;

  // -1 if there is no such piece.
  Id PieceToId(std::string_view piece) const;
  std::int64_t num_pieces() const { return static_cast<std::int64_t>(ids_.size()); }
  Id max_id() const { return max_id_; }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>()(text);
    }
  };
  struct Merge {
    std::int32_t rank = 0;
    Id id = 0;
  };

  std::vector<Id> Symbols(std::string_view text) const;
  const Merge* FindMerge(Id left, Id right) const;

  std::unordered_map<std::string, Id, Hash, std::equal_to<>> ids_;
  std::unordered_map<std::uint64_t, Merge> merges_;  // by both ids
  std::vector<Id> bytes_;                            // [256], -1: none
  Id unk_ = -1;
  Id max_id_ = -1;
};

}  // namespace siglip
