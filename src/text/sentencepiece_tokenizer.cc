#include "text/sentencepiece_tokenizer.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/canonicalize.h"
#include "text/piece_model_check.h"
#include "text/utf8.h"

namespace siglip {
namespace {

constexpr char32_t kPieceUnderline = 0x2581;  // U+2581, SentencePiece's mark of a space
constexpr const char* kPieceUnderlineUtf8 = "\xe2\x96\x81";

// A text is encoded in parts of about so many characters: nobody needs more pieces than the tower
// has positions.
constexpr std::size_t kPartCharacters = 4096;
// What has no place to be cut within so many is cut anywhere. (Its pieces may then differ from
// transformers'. Words are shorter.) While a part is encoded, each byte of it takes some 200 of
// memory, and U+FDFA becomes 33 bytes.
constexpr std::size_t kMaxPartCharacters = std::size_t{1} << 15;
// So many places of a window are tried for a cut within an unknown piece, each for some 60
// microseconds: enough to find one between letters with marks.
constexpr int kMaxTries = 8;
// Between two added tokens, until it is asked whether to give up: some milliseconds.
constexpr int kPartsAtATime = 256;
// Looked at on each side of a cut within an unknown piece: normalization sees a few characters at
// a time.
constexpr std::size_t kCutContext = 8;

bool IsAsciiLetterOrDigit(char32_t c) {
  return (c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z') || (c >= U'0' && c <= U'9');
}

// After a character that is none.
bool HasSpaceWithin(std::string_view piece) {
  const std::string_view space = kPieceUnderlineUtf8;
  while (piece.starts_with(space)) piece.remove_prefix(space.size());
  return piece.find(space) != std::string_view::npos;
}

std::u32string StripLeft(const std::u32string& text) {
  const auto first = std::find_if_not(text.begin(), text.end(), IsWhiteSpace);
  return std::u32string(first, text.end());
}

std::u32string StripRight(const std::u32string& text) {
  const auto last = std::find_if_not(text.rbegin(), text.rend(), IsWhiteSpace);
  return std::u32string(text.begin(), last.base());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> SentencePieceTokenizer::Create(
    std::string_view model, const std::string& source, const TokenizerConfig& config,
    std::int64_t max_position_embeddings, std::int64_t vocab_size) {
  auto tokenizer = std::make_unique<SentencePieceTokenizer>();
  std::string problem(CheckPieceModel(model).message());
  if (problem.empty()) {
    tokenizer->model_ = PieceModel::Load(model, FactsOfPieceModel(model), problem);
  }
  if (tokenizer->model_ == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": expected a SentencePiece model: ", problem));
  }
  const int num_pieces = tokenizer->model_->num_pieces();
  if (num_pieces > vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        source, ": ", num_pieces, " pieces, the text tower has a vocabulary of ", vocab_size));
  }
  tokenizer->config_ = config;
  tokenizer->vocab_size_ = vocab_size;
  SIGLIP_RETURN_IF_ERROR(tokenizer->AddTokens(source));
  tokenizer->eos_id_ = tokenizer->IdOfPiece(config.eos_token);
  tokenizer->pad_id_ = tokenizer->IdOfPiece(config.pad_token);
  SIGLIP_RETURN_IF_ERROR(tokenizer->CheckEosAndPad(source));
  tokenizer->text_length_ = std::min(config.model_max_length, max_position_embeddings);
  tokenizer->padding_side_ = config.padding_side.value_or(TextSide::kRight);
  tokenizer->truncation_side_ = config.truncation_side.value_or(TextSide::kRight);
  std::vector<PieceModel::Piece> unk_pieces;
  if (!tokenizer->model_->Encode(config.unk_token, unk_pieces, problem)) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": SentencePiece refuses \"", config.unk_token, "\": ", problem));
  }
  tokenizer->unk_length_ = unk_pieces.size();
  if (!unk_pieces.empty() && unk_pieces.back().unknown) {
    tokenizer->unk_end_ = unk_pieces.back().text;
  }
  tokenizer->words_are_apart_ = true;
  for (int id = 0; id < num_pieces; ++id) {
    if (HasSpaceWithin(tokenizer->model_->IdToPiece(id))) tokenizer->words_are_apart_ = false;
  }
  return tokenizer;
}

bool SentencePieceTokenizer::IsPiece(const std::string& content) const {
  return model_->IdToPiece(model_->PieceToId(content)) == content;
}

// The size of the class's vocabulary: its pieces, where tokens of the files have taken the place of
// those that had their ids, and these tokens.
std::int64_t SentencePieceTokenizer::FirstNewId() const {
  std::unordered_set<std::string> replaced;
  for (const AddedToken& token : config_.added_tokens) {
    if (token.id < model_->num_pieces()) {
      replaced.insert(model_->IdToPiece(static_cast<int>(token.id)));
    }
  }
  std::int64_t size = model_->num_pieces() - static_cast<std::int64_t>(replaced.size());
  for (const AddedToken& token : config_.added_tokens) {
    if (!IsPiece(token.content) || replaced.contains(token.content)) ++size;
  }
  return size;
}

absl::Status SentencePieceTokenizer::AddTokens(const std::string& source) {
  for (const AddedToken& token : config_.added_tokens) {
    const auto bad = [&](const std::string& what) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, ": added token ", token.content, " ", what));
    };
    if (token.id >= vocab_size_) {
      return bad(absl::StrCat("has id ", token.id, ", the text tower has ", vocab_size_));
    }
    if (!index_.emplace(token.content, added_.size()).second) return bad("is there twice");
    added_.push_back(token);
  }
  std::int64_t new_id = -1;
  for (const AddedToken& token : config_.special_tokens) {
    special_.insert(token.content);
    if (token.content.empty() || !index_.emplace(token.content, added_.size()).second) continue;
    // The class does not keep what else the files say of it.
    AddedToken& added = added_.emplace_back();
    added.content = token.content;
    if (IsPiece(token.content)) {
      added.id = model_->PieceToId(token.content);
    } else {
      if (new_id < 0) new_id = FirstNewId();
      added.id = new_id++;
    }
  }
  // One whose id the class has given to another is found no more, unless it is all of a part.
  std::unordered_map<std::int64_t, std::size_t> of_id;
  for (std::size_t i = 0; i < added_.size(); ++i) of_id[added_[i].id] = i;
  std::vector<AddedTokenMatcher::Entry> entries;
  for (std::size_t i = 0; i < added_.size(); ++i) {
    const AddedToken& of_its_id = added_[of_id[added_[i].id]];
    added_[i].lstrip = of_its_id.lstrip;
    added_[i].rstrip = of_its_id.rstrip;
    if (&of_its_id != &added_[i] && !special_.contains(added_[i].content)) continue;
    SIGLIP_ASSIGN_OR_RETURN(std::u32string content, DecodeUtf8(added_[i].content));
    entries.push_back({std::move(content), i});
  }
  matcher_ = AddedTokenMatcher(std::move(entries));
  return absl::OkStatus();
}

std::int64_t SentencePieceTokenizer::IdOfPiece(const std::string& piece) const {
  const auto added = index_.find(piece);
  return added != index_.end() ? added_[added->second].id : model_->PieceToId(piece);
}

// A part that is a token's content is the token, however it was cut.
SentencePieceTokenizer::Part SentencePieceTokenizer::MakePart(std::u32string text) const {
  const auto found = index_.find(EncodeUtf8(text));
  return {found == index_.end() ? nullptr : &added_[found->second], std::move(text)};
}

std::vector<SentencePieceTokenizer::Part> SentencePieceTokenizer::SplitAtAddedTokens(
    std::u32string_view text) const {
  if (config_.split_special_tokens) return {Part{.token = nullptr, .text = std::u32string(text)}};
  std::vector<Part> parts;
  std::size_t plain = 0;  // where it began
  const auto finish_plain = [&](std::size_t end) {
    if (end > plain) parts.push_back(MakePart(std::u32string(text.substr(plain, end - plain))));
  };
  for (std::size_t at = 0; at < text.size();) {
    const auto match = matcher_.At(text, at);
    if (!match) {
      ++at;
      continue;
    }
    finish_plain(at);
    parts.push_back({&added_[match->token], std::u32string(text.substr(at, match->length))});
    plain = at += match->length;
  }
  finish_plain(text.size());
  return parts;
}

// An added token takes white space from its neighbours, which may be added tokens too. Those are
// then others, or plain text.
void SentencePieceTokenizer::StripNextToTokens(std::vector<Part>& parts) const {
  const auto strip = [&](Part& part, std::u32string text) {
    if (text.size() != part.text.size()) part = MakePart(std::move(text));
  };
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const AddedToken* token = parts[i].token;
    if (token == nullptr) continue;
    if (token->rstrip && i + 1 < parts.size()) strip(parts[i + 1], StripLeft(parts[i + 1].text));
    if (token->lstrip && i > 0) strip(parts[i - 1], StripRight(parts[i - 1].text));
  }
}

absl::StatusOr<SentencePieceTokenizer::Encoded> SentencePieceTokenizer::Encode(
    std::u32string_view text) const {
  // "<unk>" in front keeps SentencePiece from stripping leading spaces; its own pieces are dropped
  // again.
  const std::string with_unk = config_.unk_token + EncodeUtf8(text);
  std::string problem;
  Encoded encoded;
  if (!model_->Encode(with_unk, encoded.pieces, problem)) {
    return absl::InvalidArgumentError(absl::StrCat("SentencePiece refuses the text: ", problem));
  }
  if (encoded.pieces.size() < unk_length_) return encoded;
  const auto begin = encoded.pieces.begin();
  const auto end = begin + static_cast<std::ptrdiff_t>(unk_length_);
  if (!unk_end_.empty() && std::prev(end)->text.starts_with(unk_end_)) {
    encoded.dropped = std::prev(end)->text.substr(unk_end_.size());
  }
  encoded.pieces.erase(begin, end);
  return encoded;
}

std::string SentencePieceTokenizer::UnknownForm(std::u32string_view text) const {
  const auto encoded = Encode(text);
  if (!encoded.ok()) return "";
  if (encoded->pieces.empty()) return encoded->dropped;
  const bool alone = encoded->pieces.size() == 1 && encoded->dropped.empty();
  return alone && encoded->pieces[0].unknown ? encoded->pieces[0].text : "";
}

// No piece has both a known and an unknown character, or two unknown ones, and none begins before a
// space that it has: such places are between two pieces in the whole text too.
std::size_t SentencePieceTokenizer::FindCut(std::u32string_view text, std::size_t first) const {
  if (text.size() - first <= kPartCharacters) return text.size();
  const auto is_within_unknown = [&](std::size_t at) {
    const std::string left = UnknownForm(text.substr(at - kCutContext, kCutContext));
    const std::string right = UnknownForm(text.substr(at, kCutContext));
    return !left.empty() && !right.empty() &&
           UnknownForm(text.substr(at - kCutContext, 2 * kCutContext)) == left + right;
  };
  std::size_t begin = first + kPartCharacters / 2;
  while (begin < text.size() && begin < first + kMaxPartCharacters) {
    const std::size_t end = std::min(begin + kPartCharacters / 2, text.size());
    int tries = 0;
    for (std::size_t at = end; at-- > begin;) {
      if (at + kCutContext > text.size()) continue;
      if (words_are_apart_ && text[at] == U' ' && IsAsciiLetterOrDigit(text[at - 1]) &&
          IsAsciiLetterOrDigit(text[at + 1])) {
        return at;
      }
      if (tries < kMaxTries) {
        ++tries;
        if (is_within_unknown(at)) return at;
      }
    }
    begin = end;
  }
  return std::min(text.size(), first + kMaxPartCharacters);
}

bool SentencePieceTokenizer::Enough(const std::vector<std::string>& pieces) const {
  return truncation_side_ == TextSide::kRight &&
         pieces.size() > static_cast<std::size_t>(text_length_) + 1;
}

absl::Status SentencePieceTokenizer::AppendPieces(const std::u32string& text, const GiveUp& give_up,
                                                  std::vector<std::string>& pieces) const {
  const std::u32string canonical = Canonicalize(text, config_.do_lower_case);
  const std::u32string_view all = canonical;
  bool after_unknown = false;
  std::size_t begin = 0;
  do {
    if (begin > 0 && give_up && give_up()) return GivenUp();
    const std::size_t end = FindCut(all, begin);
    SIGLIP_ASSIGN_OR_RETURN(Encoded encoded, Encode(all.substr(begin, end - begin)));
    if (begin > 0 && !encoded.dropped.empty()) {
      encoded.pieces.insert(encoded.pieces.begin(), {std::move(encoded.dropped), true});
    }
    for (PieceModel::Piece& piece : encoded.pieces) {
      if (piece.unknown && after_unknown) {
        pieces.back() += piece.text;
      } else {
        pieces.push_back(std::move(piece.text));
      }
      after_unknown = piece.unknown;
    }
    begin = end;
  } while (begin < all.size() && !Enough(pieces));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::int64_t>> SentencePieceTokenizer::EncodeIds(
    std::string_view text, const GiveUp& give_up) const {
  SIGLIP_ASSIGN_OR_RETURN(std::u32string raw, DecodeUtf8(text));
  std::replace(raw.begin(), raw.end(), kPieceUnderline, U' ');
  raw.insert(raw.begin(), kPieceUnderline);

  std::vector<Part> parts = SplitAtAddedTokens(raw);
  StripNextToTokens(parts);
  std::vector<std::string> pieces;
  int num_parts = 0;
  for (const Part& part : parts) {
    if (Enough(pieces)) break;
    if (++num_parts % kPartsAtATime == 0 && give_up && give_up()) return GivenUp();
    if (part.token != nullptr) {
      pieces.push_back(part.token->content);
    } else if (!part.text.empty()) {
      SIGLIP_RETURN_IF_ERROR(AppendPieces(part.text, give_up, pieces));
    }
  }
  if (pieces.size() > 1 && pieces[0] == kPieceUnderlineUtf8 && special_.contains(pieces[1])) {
    pieces.erase(pieces.begin());
  }
  std::vector<std::int64_t> ids;
  Cut(static_cast<std::size_t>(text_length_ - 1), pieces);
  for (const std::string& piece : pieces) ids.push_back(IdOfPiece(piece));
  if (ids.empty() || ids.back() != eos_id_) ids.push_back(eos_id_);
  SIGLIP_RETURN_IF_ERROR(CheckIds(ids));
  return ids;
}

std::string SentencePieceTokenizer::Describe() const {
  return absl::StrCat("SiglipTokenizer (SentencePiece, ", model_->num_pieces(), " pieces), ",
                      DescribeIds(), config_.do_lower_case ? "" : ", case kept");
}

}  // namespace siglip
