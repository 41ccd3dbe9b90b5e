#include "text/bpe_model.h"

#include <algorithm>
#include <queue>
#include <tuple>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace siglip {
namespace {

std::uint64_t PairKey(BpeModel::Id left, BpeModel::Id right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

std::size_t LengthOfCharacter(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

// The character that begins at, or ends before, a place, as one number.
std::uint32_t FirstCharacter(std::string_view text) {
  std::uint32_t bytes = 0;
  for (const char c : text.substr(0, LengthOfCharacter(text[0]))) {
    bytes = bytes << 8 | static_cast<unsigned char>(c);
  }
  return bytes;
}

std::string_view LastCharacter(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
  return text.substr(at);
}

std::uint64_t Joint(std::string_view left, std::string_view right) {
  return static_cast<std::uint64_t>(FirstCharacter(LastCharacter(left))) << 32 |
         FirstCharacter(right);
}

// A text is encoded in parts of about so many bytes: nobody needs more ids than the tower has
// positions. What has no place to be cut is one part.
constexpr std::size_t kPartBytes = 4096;
// Merges between two questions whether to give up: some milliseconds.
constexpr int kMergesAtATime = 1 << 14;

constexpr BpeModel::Id kGone = -2;

// A piece of the text while it is merged; the list is threaded through the vector.
template <class Index>
struct Symbol {
  BpeModel::Id id;  // kGone: part of the one before
  Index previous;
  Index next;
};

// A merge that was possible when it was found. Lowest rank first, then leftmost.
template <class Index>
struct Candidate {
  std::int32_t rank;
  Index left;
  BpeModel::Id id;
  bool operator>(const Candidate& other) const {
    return std::tie(rank, left) > std::tie(other.rank, other.left);
  }
};

}  // namespace

absl::StatusOr<BpeModel> BpeModel::Create(const Options& options) {
  BpeModel model;
  model.ids_.reserve(options.vocabulary.size());
  std::unordered_set<Id> taken;
  taken.reserve(options.vocabulary.size());
  for (const auto& [piece, id] : options.vocabulary) {
    if (id < 0 || !taken.insert(id).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("vocabulary: \"", piece, "\": expected an id of its own from 0, got ", id));
    }
    model.ids_.emplace(piece, id);
    model.max_id_ = std::max(model.max_id_, id);
  }
  model.merges_.reserve(options.merges.size());
  for (std::size_t rank = 0; rank < options.merges.size(); ++rank) {
    const auto& [left, right] = options.merges[rank];
    for (const std::string& piece : {left, right, left + right}) {
      if (model.PieceToId(piece) >= 0) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("merge ", rank, ": \"", piece, "\" is not in the vocabulary"));
    }
    // Of equal pairs the last one counts.
    model.merges_[PairKey(model.PieceToId(left), model.PieceToId(right))] = {
        static_cast<std::int32_t>(rank), model.PieceToId(left + right)};
    if (!left.empty() && !right.empty()) model.joints_.insert(Joint(left, right));
  }
  if (!options.unk_token.empty()) {
    model.unk_ = model.PieceToId(options.unk_token);
    if (model.unk_ < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("unk_token \"", options.unk_token, "\" is not in the vocabulary"));
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    model.bytes_.push_back(model.PieceToId(absl::StrFormat("<0x%02X>", byte)));
  }
  return model;
}

BpeModel::Id BpeModel::PieceToId(std::string_view piece) const {
  const auto found = ids_.find(piece);
  return found == ids_.end() ? -1 : found->second;
}

const BpeModel::Merge* BpeModel::FindMerge(Id left, Id right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

// One for each character; or for its bytes; or <unk>, which waits until the next known character.
std::vector<BpeModel::Id> BpeModel::Symbols(std::string_view text) const {
  std::vector<Id> symbols;
  symbols.reserve(text.size());
  bool unk_waits = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view character = text.substr(at, LengthOfCharacter(text[at]));
    at += character.size();
    const Id id = PieceToId(character);
    if (id >= 0) {
      if (unk_waits) symbols.push_back(unk_);
      unk_waits = false;
      symbols.push_back(id);
      continue;
    }
    const auto piece_of = [&](char c) { return bytes_[static_cast<unsigned char>(c)]; };
    const bool falls_back =
        std::all_of(character.begin(), character.end(), [&](char c) { return piece_of(c) >= 0; });
    if (falls_back) {
      for (const char c : character) symbols.push_back(piece_of(c));
      continue;
    }
    if (unk_ < 0) continue;
    unk_waits = true;
  }
  if (unk_waits) symbols.push_back(unk_);
  return symbols;
}

// Both characters beside the cut have pieces, so each is a symbol of its own, and neither waits for
// the other side. A symbol's piece is what the text has there; so a merge over the cut would be of
// a piece that ends with the one and a piece that begins with the other. There is none, and what is
// merged on one side does not depend on the other.
std::size_t BpeModel::FindCut(std::string_view text, std::size_t least) const {
  if (text.size() <= least) return text.size();
  std::size_t at = least;
  while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) ++at;
  std::string_view left = LastCharacter(text.substr(0, at));
  while (at < text.size()) {
    const std::string_view right = text.substr(at, LengthOfCharacter(text[at]));
    if (!joints_.contains(Joint(left, right)) && PieceToId(left) >= 0 && PieceToId(right) >= 0) {
      return at;
    }
    left = right;
    at += right.size();
  }
  return text.size();
}

bool BpeModel::Encode(std::string_view text, const Limit& limit,
                      std::vector<std::int64_t>& ids) const {
  for (bool first = true; !text.empty() && ids.size() < limit.enough; first = false) {
    if (!first && limit.give_up && limit.give_up()) return false;
    const std::string_view part = text.substr(0, FindCut(text, kPartBytes));
    // Half the memory, which is what a long part costs.
    const bool small = part.size() <= INT32_MAX;
    const bool done = small ? EncodePart<std::int32_t>(part, limit.give_up, ids)
                            : EncodePart<std::int64_t>(part, limit.give_up, ids);
    if (!done) return false;
    text.remove_prefix(part.size());
  }
  return true;
}

template <class Index>
bool BpeModel::EncodePart(std::string_view text, const std::function<bool()>& give_up,
                          std::vector<std::int64_t>& ids) const {
  std::vector<Symbol<Index>> symbols;
  {
    const std::vector<Id> from = Symbols(text);
    symbols.reserve(from.size());
    for (const Id id : from) {
      const auto at = static_cast<Index>(symbols.size());
      symbols.push_back({id, at - 1, at + 1});
    }
  }
  if (symbols.empty()) return true;
  symbols.back().next = -1;
  const auto at = [&](Index i) -> Symbol<Index>& { return symbols[static_cast<std::size_t>(i)]; };

  std::vector<Candidate<Index>> found;
  const auto find = [&](Index left) -> const Merge* {
    if (left < 0 || at(left).next < 0) return nullptr;
    return FindMerge(at(left).id, at(at(left).next).id);
  };
  for (Index i = 0; i + 1 < static_cast<Index>(symbols.size()); ++i) {
    if (const Merge* merge = find(i)) found.push_back({merge->rank, i, merge->id});
  }
  std::priority_queue<Candidate<Index>, std::vector<Candidate<Index>>, std::greater<>> queue(
      std::greater<>(), std::move(found));
  for (int merges = 0; !queue.empty(); ++merges) {
    if (merges == kMergesAtATime) {
      if (give_up && give_up()) return false;
      merges = 0;
    }
    const Candidate<Index> candidate = queue.top();
    queue.pop();
    if (at(candidate.left).id == kGone) continue;
    // Either side may have been merged since.
    const Merge* merge = find(candidate.left);
    if (merge == nullptr || merge->id != candidate.id) continue;
    Symbol<Index>& left = at(candidate.left);
    Symbol<Index>& right = at(left.next);
    right.id = kGone;
    left.id = merge->id;
    left.next = right.next;
    if (left.next >= 0) at(left.next).previous = candidate.left;
    for (const Index i : {left.previous, candidate.left}) {
      if (const Merge* next = find(i)) queue.push({next->rank, i, next->id});
    }
  }
  for (Index i = 0; i >= 0; i = at(i).next) ids.push_back(at(i).id);
  return true;
}

}  // namespace siglip
