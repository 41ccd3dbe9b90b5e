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

// A piece of the text while it is merged; the list is threaded through the vector.
struct Symbol {
  BpeModel::Id id;
  std::int64_t previous;
  std::int64_t next;
  bool gone = false;
};

// A merge that was possible when it was found. Lowest rank first, then leftmost.
struct Candidate {
  std::int32_t rank;
  std::int64_t left;
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

void BpeModel::Encode(std::string_view text, std::vector<std::int64_t>& ids) const {
  std::vector<Symbol> symbols;
  for (const Id id : Symbols(text)) {
    const auto at = static_cast<std::int64_t>(symbols.size());
    symbols.push_back({id, at - 1, at + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;
  const auto at = [&](std::int64_t i) -> Symbol& { return symbols[static_cast<std::size_t>(i)]; };

  std::vector<Candidate> found;
  const auto find = [&](std::int64_t left) -> const Merge* {
    if (left < 0 || at(left).next < 0) return nullptr;
    return FindMerge(at(left).id, at(at(left).next).id);
  };
  for (std::int64_t i = 0; i + 1 < static_cast<std::int64_t>(symbols.size()); ++i) {
    if (const Merge* merge = find(i)) found.push_back({merge->rank, i, merge->id});
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>(),
                                                                               std::move(found));
  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    if (at(candidate.left).gone) continue;
    // Either side may have been merged since.
    const Merge* merge = find(candidate.left);
    if (merge == nullptr || merge->id != candidate.id) continue;
    Symbol& left = at(candidate.left);
    Symbol& right = at(left.next);
    right.gone = true;
    left.id = merge->id;
    left.next = right.next;
    if (left.next >= 0) at(left.next).previous = candidate.left;
    for (const std::int64_t i : {left.previous, candidate.left}) {
      if (const Merge* next = find(i)) queue.push({next->rank, i, next->id});
    }
  }
  for (std::int64_t i = 0; i >= 0; i = at(i).next) ids.push_back(at(i).id);
}

}  // namespace siglip
