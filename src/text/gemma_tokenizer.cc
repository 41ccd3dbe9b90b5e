#include "text/gemma_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/canonicalize.h"
#include "text/utf8.h"

namespace siglip {
namespace {

constexpr char32_t kUnderline = 0x2581;  // U+2581, the mark of a space

// Siglip2Tokenizer lower-cases whatever the files say; then Gemma's own normalizer.
std::u32string Normalize(std::u32string_view text) {
  std::u32string result = LowerCaseByCodePoint(text);
  std::replace(result.begin(), result.end(), U' ', kUnderline);
  return result;
}

// Rust's char::is_whitespace: Unicode's White_Space, which lacks U+001C to U+001F.
bool IsRustWhiteSpace(char32_t c) { return IsWhiteSpace(c) && !(c >= 0x1c && c <= 0x1f); }

}  // namespace

GemmaTokenizer::GemmaTokenizer(TokenizerJson json, BpeModel model)
    : json_(std::move(json)), model_(std::move(model)) {}

absl::Status GemmaTokenizer::AddMatchers() {
  for (std::size_t i = 0; i < json_.added_tokens.size(); ++i) {
    const JsonAddedToken& token = json_.added_tokens[i];
    SIGLIP_ASSIGN_OR_RETURN(std::u32string content, DecodeUtf8(token.content));
    if (token.normalized) {
      normalized_.Add(Normalize(content), i);
    } else {
      raw_.Add(std::move(content), i);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> GemmaTokenizer::Create(
    std::string_view json, const std::string& source, const SiglipTokenizerConfig& config,
    std::int64_t max_position_embeddings, std::int64_t vocab_size) {
  SIGLIP_ASSIGN_OR_RETURN(TokenizerJson parsed, ParseTokenizerJson(json, source));
  const auto in_file = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(source, ": ", std::string(status.message())));
  };
  absl::StatusOr<BpeModel> model = BpeModel::Create(parsed.model);
  if (!model.ok()) return in_file(model.status());
  parsed.model = {};
  auto tokenizer =
      std::unique_ptr<GemmaTokenizer>(new GemmaTokenizer(std::move(parsed), *std::move(model)));
  if (absl::Status status = tokenizer->AddMatchers(); !status.ok()) return in_file(status);

  const TokenizerJson& file = tokenizer->json_;
  std::int64_t max_id = tokenizer->model_.max_id();
  for (const JsonAddedToken& token : file.added_tokens) max_id = std::max(max_id, token.id);
  for (const auto* ids : {&file.prefix, &file.suffix}) {
    for (const std::int64_t id : *ids) max_id = std::max(max_id, id);
  }
  if (max_id >= vocab_size) {
    return in_file(absl::InvalidArgumentError(
        absl::StrCat("ids up to ", max_id, ", the text tower has a vocabulary of ", vocab_size)));
  }
  const auto id_of = [&](const std::string& content) -> absl::StatusOr<std::int64_t> {
    for (const JsonAddedToken& token : file.added_tokens) {
      if (token.content == content) return token.id;
    }
    if (const auto id = tokenizer->model_.PieceToId(content); id >= 0) return id;
    return in_file(absl::InvalidArgumentError(
        absl::StrCat("the special token ", content, " is none of its pieces")));
  };
  SIGLIP_ASSIGN_OR_RETURN(tokenizer->eos_id_, id_of(config.eos_token));
  SIGLIP_ASSIGN_OR_RETURN(tokenizer->pad_id_, id_of(config.pad_token));
  tokenizer->text_length_ = std::min(config.model_max_length, max_position_embeddings);
  // The class pads on the left if nobody says otherwise; published files do.
  tokenizer->padding_side_ =
      config.padding_side.value_or(file.padding_side.value_or(TextSide::kLeft));
  tokenizer->truncation_side_ =
      config.truncation_side.value_or(file.truncation_side.value_or(TextSide::kRight));
  tokenizer->split_special_tokens_ = config.split_special_tokens;
  const auto around = static_cast<std::int64_t>(file.prefix.size() + file.suffix.size());
  if (around > tokenizer->text_length_) {
    return in_file(absl::InvalidArgumentError(
        absl::StrCat("post_processor: expected at most ", tokenizer->text_length_,
                     " special tokens around a text, got ", around)));
  }
  return tokenizer;
}

template <class Plain>
void GemmaTokenizer::Split(const AddedTokenMatcher& matcher, std::u32string_view text,
                           std::vector<std::int64_t>& ids, const Plain& plain) const {
  std::size_t start = 0;  // of the plain text that is not given out yet
  const auto flush = [&](std::size_t end) {
    if (end > start) plain(text.substr(start, end - start));
  };
  for (std::size_t at = 0; at < text.size();) {
    const auto match = matcher.At(text, at);
    if (!match) {
      ++at;
      continue;
    }
    const JsonAddedToken& token = json_.added_tokens[match->token];
    if (split_special_tokens_ && token.special) {
      at += match->length;
      continue;
    }
    std::size_t left = at;
    std::size_t right = at + match->length;
    if (token.lstrip) {
      while (left > start && IsRustWhiteSpace(text[left - 1])) --left;
    }
    if (token.rstrip) {
      while (right < text.size() && IsRustWhiteSpace(text[right])) ++right;
    }
    flush(left);
    ids.push_back(token.id);
    start = right;
    // The library looks for tokens in the white space that this one has taken, too.
    at += match->length;
  }
  flush(text.size());
}

absl::StatusOr<std::vector<std::int64_t>> GemmaTokenizer::EncodeUnpadded(
    std::string_view text) const {
  SIGLIP_ASSIGN_OR_RETURN(const std::u32string raw, DecodeUtf8(text));
  std::vector<std::int64_t> pieces;
  Split(raw_, raw, pieces, [&](std::u32string_view part) {
    const std::u32string normal = Normalize(part);
    Split(normalized_, normal, pieces,
          [&](std::u32string_view rest) { model_.Encode(EncodeUtf8(rest), pieces); });
  });
  std::vector<std::int64_t> ids = json_.prefix;
  const std::size_t room =
      static_cast<std::size_t>(text_length_) - json_.prefix.size() - json_.suffix.size();
  Cut(room, pieces);
  ids.insert(ids.end(), pieces.begin(), pieces.end());
  ids.insert(ids.end(), json_.suffix.begin(), json_.suffix.end());
  return ids;
}

std::string GemmaTokenizer::Describe() const {
  return absl::StrCat("Siglip2Tokenizer (BPE, ", model_.num_pieces(), " pieces, ",
                      json_.added_tokens.size(), " added), ", DescribeIds());
}

}  // namespace siglip
