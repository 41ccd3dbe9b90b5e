#pragma once

// Byte-pair encoding over a whole text, as the tokenizers library's BPE with byte_fallback and
// fuse_unk does it: a character without a piece becomes its bytes, <0x00> to <0xFF>, and if one of
// these has none, a run of such characters is one unk_token.
// Source: tokenizers 0.23.3 models/bpe (behaviour, found by running it).

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
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

  // When Encode may stop.
  struct Limit {
    std::size_t enough = SIZE_MAX;    // ids that are there, and all that follow are not wanted
    std::function<bool()> give_up{};  // asked now and then; may be empty
  };
  // Appends the ids of `text`, which is valid UTF-8, or the first of them up to `enough` at least.
  // O(n log n). False if it was given up.
  bool Encode(std::string_view text, const Limit& limit, std::vector<std::int64_t>& ids) const;

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
  // The first place after `least` bytes where no merge can reach from one side to the other, so
  // that both sides have the ids that they have in the whole.
  std::size_t FindCut(std::string_view text, std::size_t least) const;
  // Index: of a symbol.
  template <class Index>
  bool EncodePart(std::string_view text, const std::function<bool()>& give_up,
                  std::vector<std::int64_t>& ids) const;

  std::unordered_map<std::string, Id, Hash, std::equal_to<>> ids_;
  std::unordered_map<std::uint64_t, Merge> merges_;  // by both ids
  // The last character of a merge's left piece with the first of its right one.
  std::unordered_set<std::uint64_t> joints_;
  std::vector<Id> bytes_;  // [256], -1: none
  Id unk_ = -1;
  Id max_id_ = -1;
};

}  // namespace siglip
