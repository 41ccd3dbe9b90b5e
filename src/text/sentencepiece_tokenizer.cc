#include "text/sentencepiece_tokenizer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/canonicalize.h"
#include "text/piece_model_check.h"
#include "text/utf8.h"

namespace siglip {
namespace {

constexpr char32_t kUnderline = 0x2581;  // U+2581, SentencePiece's mark of a space
constexpr const char* kUnderlineUtf8 = "\xe2\x96\x81";

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
    std::string_view model, const std::string& source, const SiglipTokenizerConfig& config,
    std::int64_t max_position_embeddings, std::int64_t vocab_size) {
  auto tokenizer = std::make_unique<SentencePieceTokenizer>();
  std::string problem(CheckPieceModel(model).message());
  if (problem.empty()) tokenizer->model_ = PieceModel::Load(model, problem);
  if (tokenizer->model_ == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": expected a SentencePiece model: ", problem));
  }
  tokenizer->config_ = config;
  const int num_pieces = tokenizer->model_->num_pieces();

  std::vector<AddedToken>& added = tokenizer->config_.added_tokens;
  for (const std::string& content : {config.eos_token, config.unk_token, config.pad_token}) {
    const bool listed = std::any_of(added.begin(), added.end(), [&](const AddedToken& token) {
      return token.content == content;
    });
    if (listed || content.empty()) continue;
    const int id = tokenizer->model_->PieceToId(content);
    if (tokenizer->model_->IdToPiece(id) != content) {
      return absl::InvalidArgumentError(absl::StrCat(source, ": the special token ", content,
                                                     " is none of its ", num_pieces, " pieces"));
    }
    added.push_back({.content = content, .id = id});
  }
  for (std::size_t i = 0; i < added.size(); ++i) {
    const AddedToken& token = added[i];
    if (token.id < 0 || token.id >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(source, ": added token ", token.content,
                                                     " has id ", token.id, ", the text tower has ",
                                                     vocab_size));
    }
    SIGLIP_ASSIGN_OR_RETURN(std::u32string content, DecodeUtf8(token.content));
    if (content.empty()) continue;
    tokenizer->matcher_.Add(std::move(content), i);
    tokenizer->added_ids_[token.content] = token.id;
  }
  if (num_pieces > vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        source, ": ", num_pieces, " pieces, the text tower has a vocabulary of ", vocab_size));
  }
  tokenizer->eos_id_ = tokenizer->IdOfPiece(config.eos_token);
  tokenizer->pad_id_ = tokenizer->IdOfPiece(config.pad_token);
  tokenizer->text_length_ = std::min(config.model_max_length, max_position_embeddings);
  tokenizer->padding_side_ = config.padding_side.value_or(TextSide::kRight);
  tokenizer->truncation_side_ = config.truncation_side.value_or(TextSide::kRight);
  std::vector<std::string> unk_pieces;
  if (!tokenizer->model_->EncodeAsPieces(config.unk_token, unk_pieces, problem)) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": SentencePiece refuses \"", config.unk_token, "\": ", problem));
  }
  tokenizer->unk_length_ = unk_pieces.size();
  return tokenizer;
}

std::int64_t SentencePieceTokenizer::IdOfPiece(const std::string& piece) const {
  const auto added = added_ids_.find(piece);
  return added != added_ids_.end() ? added->second : model_->PieceToId(piece);
}

std::vector<SentencePieceTokenizer::Part> SentencePieceTokenizer::SplitAtAddedTokens(
    std::u32string_view text) const {
  if (config_.split_special_tokens) return {Part{.text = std::u32string(text)}};
  std::vector<Part> parts;
  std::u32string plain;
  const auto finish_plain = [&] {
    if (!plain.empty()) parts.push_back({nullptr, std::move(plain)});
    plain.clear();
  };
  for (std::size_t at = 0; at < text.size();) {
    const auto match = matcher_.At(text, at);
    if (!match) {
      plain += text[at++];
      continue;
    }
    finish_plain();
    parts.push_back({&config_.added_tokens[match->token], {}});
    at += match->length;
  }
  finish_plain();
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].token == nullptr) continue;
    if (parts[i].token->rstrip && i + 1 < parts.size() && parts[i + 1].token == nullptr) {
      parts[i + 1].text = StripLeft(parts[i + 1].text);
    }
    if (parts[i].token->lstrip && i > 0 && parts[i - 1].token == nullptr) {
      parts[i - 1].text = StripRight(parts[i - 1].text);
    }
  }
  return parts;
}

absl::Status SentencePieceTokenizer::AppendPieces(const std::u32string& text,
                                                  std::vector<std::string>& pieces) const {
  // "<unk>" in front keeps SentencePiece from stripping leading spaces; its own pieces are dropped
  // again.
  const std::string canonical =
      config_.unk_token + EncodeUtf8(Canonicalize(text, config_.do_lower_case));
  std::vector<std::string> encoded;
  std::string problem;
  if (!model_->EncodeAsPieces(canonical, encoded, problem)) {
    return absl::InvalidArgumentError(absl::StrCat("SentencePiece refuses the text: ", problem));
  }
  const std::size_t dropped = encoded.size() >= unk_length_ ? unk_length_ : 0;
  pieces.insert(pieces.end(),
                std::make_move_iterator(encoded.begin() + static_cast<std::ptrdiff_t>(dropped)),
                std::make_move_iterator(encoded.end()));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::int64_t>> SentencePieceTokenizer::EncodeUnpadded(
    std::string_view text) const {
  SIGLIP_ASSIGN_OR_RETURN(std::u32string raw, DecodeUtf8(text));
  std::replace(raw.begin(), raw.end(), kUnderline, U' ');
  raw.insert(raw.begin(), kUnderline);

  std::vector<std::string> pieces;
  for (const Part& part : SplitAtAddedTokens(raw)) {
    if (part.token != nullptr) {
      pieces.push_back(part.token->content);
    } else if (!part.text.empty()) {
      SIGLIP_RETURN_IF_ERROR(AppendPieces(part.text, pieces));
    }
  }
  const auto is_special = [&](const std::string& piece) {
    return std::any_of(
        config_.added_tokens.begin(), config_.added_tokens.end(),
        [&](const AddedToken& token) { return token.special && token.content == piece; });
  };
  if (pieces.size() > 1 && pieces[0] == kUnderlineUtf8 && is_special(pieces[1])) {
    pieces.erase(pieces.begin());
  }
  std::vector<std::int64_t> ids;
  Cut(static_cast<std::size_t>(text_length_ - 1), pieces);
  for (const std::string& piece : pieces) ids.push_back(IdOfPiece(piece));
  if (ids.empty() || ids.back() != eos_id_) ids.push_back(eos_id_);
  return ids;
}

std::string SentencePieceTokenizer::Describe() const {
  return absl::StrCat("SiglipTokenizer (SentencePiece, ", model_->num_pieces(), " pieces), ",
                      DescribeIds(), config_.do_lower_case ? "" : ", case kept");
}

}  // namespace siglip
