#include "text/gemma_tokenizer.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/canonicalize.h"
#include "text/utf8.h"

namespace siglip {
namespace {

constexpr char32_t kBpeUnderline = 0x2581;  // U+2581, the mark of a space

// Siglip2Tokenizer lower-cases whatever the files say; then Gemma's own normalizer.
std::u32string Normalize(std::u32string_view text) {
  std::u32string result = LowerCaseByCodePoint(text);
  std::replace(result.begin(), result.end(), U' ', kBpeUnderline);
  return result;
}

// Rust's char::is_whitespace: Unicode's White_Space, which lacks U+001C to U+001F.
bool IsRustWhiteSpace(char32_t c) { return IsWhiteSpace(c) && !(c >= 0x1c && c <= 0x1f); }

}  // namespace

GemmaTokenizer::GemmaTokenizer(TokenizerJson json, BpeModel model)
    : json_(std::move(json)), model_(std::move(model)) {}

// As `add_tokens` of the tokenizers library: ids come from the vocabulary, whatever the files say,
// and new ones follow it; of equal contents the last counts, but a token with a name does not
// replace one of the files.
absl::Status GemmaTokenizer::AddTokens(const TokenizerConfig& config) {
  std::unordered_map<std::string, std::size_t> index;
  std::int64_t next_id = model_.num_pieces();
  const auto add = [&](const AddedToken& token) {
    if (token.content.empty()) return;
    const auto [at, is_new] = index.emplace(token.content, added_.size());
    if (!is_new) {
      // Once special, always special; its other settings are replaced.
      AddedToken& added = added_[at->second];
      added = {.content = token.content,
               .id = added.id,
               .lstrip = token.lstrip,
               .rstrip = token.rstrip,
               .normalized = token.is_normalized(),
               .special = added.special || token.special};
      return;
    }
    AddedToken& added = added_.emplace_back(token);
    added.id = model_.PieceToId(token.content);
    if (added.id < 0) added.id = next_id;
    next_id = std::max(next_id, added.id + 1);
  };
  for (const AddedToken& token : config.added_tokens) add(token);
  const std::size_t of_files = added_.size();
  for (std::size_t i = 0; i < config.special_tokens.size(); ++i) {
    const AddedToken& token = config.special_tokens[i];
    const auto found = index.find(token.content);
    if (found == index.end() || found->second >= of_files) {
      add(token);
    } else if (i < config.num_named) {
      added_[found->second].special = true;
    }
  }
  std::vector<AddedTokenMatcher::Entry> raw, normalized;
  for (std::size_t i = 0; i < added_.size(); ++i) {
    SIGLIP_ASSIGN_OR_RETURN(std::u32string content, DecodeUtf8(added_[i].content));
    if (added_[i].is_normalized()) {
      normalized.push_back({Normalize(content), i});
    } else {
      raw.push_back({std::move(content), i});
    }
  }
  raw_ = AddedTokenMatcher(std::move(raw));
  normalized_ = AddedTokenMatcher(std::move(normalized));
  return absl::OkStatus();
}

absl::StatusOr<std::int64_t> GemmaTokenizer::IdOf(const std::string& content) const {
  for (const AddedToken& token : added_) {
    if (token.content == content) return token.id;
  }
  return absl::InvalidArgumentError("expected EOS and PAD, got an empty string");
}

absl::StatusOr<std::unique_ptr<Tokenizer>> GemmaTokenizer::Create(
    std::string_view json, const std::string& source, const TokenizerConfig& config,
    std::int64_t max_position_embeddings, std::int64_t vocab_size) {
  SIGLIP_ASSIGN_OR_RETURN(TokenizerJson parsed, ParseTokenizerJson(json, source));
  const auto in_file = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(source, ": ", std::string(status.message())));
  };
  parsed.model.unk_token = config.unk_token;
  absl::StatusOr<BpeModel> model = BpeModel::Create(parsed.model);
  if (!model.ok()) return in_file(model.status());
  parsed.model = {};
  TokenizerConfig with_tokens = config;
  AddTokensOfTokenizerJson(std::move(parsed.added_tokens), with_tokens);
  auto tokenizer =
      std::unique_ptr<GemmaTokenizer>(new GemmaTokenizer(std::move(parsed), *std::move(model)));
  if (absl::Status status = tokenizer->AddTokens(with_tokens); !status.ok()) return in_file(status);

  const TokenizerJson& file = tokenizer->json_;
  std::int64_t max_id = tokenizer->model_.max_id();
  for (const auto* ids : {&file.prefix, &file.suffix}) {
    for (const std::int64_t id : *ids) max_id = std::max(max_id, id);
  }
  if (max_id >= vocab_size) {
    return in_file(absl::InvalidArgumentError(
        absl::StrCat("ids up to ", max_id, ", the text tower has a vocabulary of ", vocab_size)));
  }
  tokenizer->vocab_size_ = vocab_size;
  SIGLIP_ASSIGN_OR_RETURN(tokenizer->eos_id_, tokenizer->IdOf(config.eos_token));
  SIGLIP_ASSIGN_OR_RETURN(tokenizer->pad_id_, tokenizer->IdOf(config.pad_token));
  SIGLIP_RETURN_IF_ERROR(tokenizer->CheckEosAndPad(source));
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
    const AddedToken& token = added_[match->token];
    if (split_special_tokens_ && token.special) {
      at += match->length;
      continue;
    }
    std::size_t left = at;
    std::size_t right = at + match->length;
    if (token.lstrip) {
      while (left > start && IsRustWhiteSpace(text[left - 1])) --left;
      left = std::max(left, start);
    }
    if (token.rstrip) {
      while (right < text.size() && IsRustWhiteSpace(text[right])) ++right;
    }
    flush(left);
    // Nothing is left of one that has given its white space to the one before.
    if (left < right) ids.push_back(token.id);
    start = right;
    // The library looks for tokens in the white space that this one has taken, too.
    at += match->length;
  }
  flush(text.size());
}

absl::StatusOr<std::vector<std::int64_t>> GemmaTokenizer::EncodeIds(std::string_view text,
                                                                    const GiveUp& give_up) const {
  SIGLIP_ASSIGN_OR_RETURN(const std::u32string raw, DecodeUtf8(text));
  const std::size_t room =
      static_cast<std::size_t>(text_length_) - json_.prefix.size() - json_.suffix.size();
  BpeModel::Limit limit{.give_up = give_up};
  // What follows the first `room` pieces is cut off whatever it is.
  if (truncation_side_ == TextSide::kRight) limit.enough = room;
  std::vector<std::int64_t> pieces;
  bool wanted = true;
  Split(raw_, raw, pieces, [&](std::u32string_view part) {
    if (!wanted || pieces.size() >= limit.enough) return;
    const std::u32string normal = Normalize(part);
    Split(normalized_, normal, pieces, [&](std::u32string_view rest) {
      if (!wanted || pieces.size() >= limit.enough) return;
      wanted = model_.Encode(EncodeUtf8(rest), limit, pieces);
    });
  });
  if (!wanted) return GivenUp();
  std::vector<std::int64_t> ids = json_.prefix;
  Cut(room, pieces);
  ids.insert(ids.end(), pieces.begin(), pieces.end());
  ids.insert(ids.end(), json_.suffix.begin(), json_.suffix.end());
  SIGLIP_RETURN_IF_ERROR(CheckIds(ids));
  return ids;
}

std::string GemmaTokenizer::Describe() const {
  return absl::StrCat("Siglip2Tokenizer (BPE, ", model_.num_pieces(), " pieces, ", added_.size(),
                      " added), ", DescribeIds());
}

}  // namespace siglip
