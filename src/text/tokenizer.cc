#include "text/tokenizer.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "text/gemma_tokenizer.h"
#include "text/sentencepiece_tokenizer.h"

namespace siglip {
namespace {

// The i18n checkpoint's 250,000 pieces take 4.5 MB, SigLIP 2's 256,000 with their merges 34 MB.
constexpr std::uint64_t kMaxTokenizerBytes = 128 << 20;
constexpr std::uint64_t kMaxTokenizerConfigBytes = 16 << 20;

// Nothing if there is no such file.
absl::StatusOr<std::optional<std::string>> ReadFileIfThere(const std::string& path) {
  if (!HasEntry(path)) return std::nullopt;
  SIGLIP_ASSIGN_OR_RETURN(std::string content, ReadFile(path, kMaxTokenizerConfigBytes));
  return content;
}

absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(const std::string& directory,
                                                    TokenizerKind kind) {
  TokenizerFiles files;
  files.directory = directory;
  SIGLIP_ASSIGN_OR_RETURN(files.tokenizer_config,
                          ReadFileIfThere(directory + "/tokenizer_config.json"));
  SIGLIP_ASSIGN_OR_RETURN(files.special_tokens_map,
                          ReadFileIfThere(directory + "/special_tokens_map.json"));
  SIGLIP_ASSIGN_OR_RETURN(files.added_tokens, ReadFileIfThere(directory + "/added_tokens.json"));
  return ParseTokenizerConfig(files, kind);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Open(const std::string& directory,
                                                           std::int64_t max_position_embeddings,
                                                           std::int64_t vocab_size) {
  const std::string model_path = directory + "/spiece.model";
  const std::string json_path = directory + "/tokenizer.json";
  const bool has_json = HasEntry(json_path);
  if (!HasEntry(model_path)) {
    if (!has_json) {
      return absl::NotFoundError(absl::StrCat(
          directory,
          ": expected spiece.model (SigLIP 1) or tokenizer.json (SigLIP 2), got neither"));
    }
    SIGLIP_ASSIGN_OR_RETURN(const TokenizerConfig config,
                            ReadTokenizerConfig(directory, TokenizerKind::kSiglip2));
    SIGLIP_ASSIGN_OR_RETURN(const std::string json, ReadFile(json_path, kMaxTokenizerBytes));
    return GemmaTokenizer::Create(json, json_path, config, max_position_embeddings, vocab_size);
  }
  SIGLIP_ASSIGN_OR_RETURN(TokenizerConfig config,
                          ReadTokenizerConfig(directory, TokenizerKind::kSiglip));
  if (has_json && !config.has_added_tokens_decoder) {
    SIGLIP_ASSIGN_OR_RETURN(const std::string json, ReadFile(json_path, kMaxTokenizerBytes));
    SIGLIP_ASSIGN_OR_RETURN(std::vector<AddedToken> tokens,
                            ParseAddedTokensOfTokenizerJson(json, json_path));
    AddTokensOfTokenizerJson(std::move(tokens), config);
  }
  SIGLIP_ASSIGN_OR_RETURN(const std::string model, ReadFile(model_path, kMaxTokenizerBytes));
  return SentencePieceTokenizer::Create(model, model_path, config, max_position_embeddings,
                                        vocab_size);
}

absl::StatusOr<PaddedIds> Tokenizer::Encode(std::string_view text, const GiveUp& give_up) const {
  PaddedIds padded;
  SIGLIP_ASSIGN_OR_RETURN(padded.ids, EncodeIds(text, give_up));
  padded.unpadded = static_cast<std::int64_t>(padded.ids.size());
  const std::size_t missing = static_cast<std::size_t>(text_length_) - padded.ids.size();
  padded.ids.insert(padding_side_ == TextSide::kLeft ? padded.ids.begin() : padded.ids.end(),
                    missing, pad_id_);
  return padded;
}

absl::StatusOr<std::vector<std::int64_t>> Tokenizer::Encode(std::string_view text) const {
  SIGLIP_ASSIGN_OR_RETURN(PaddedIds padded, Encode(text, {}));
  return std::move(padded.ids);
}

absl::Status Tokenizer::CheckIds(std::span<const std::int64_t> ids) const {
  for (const std::int64_t id : ids) {
    if (id < vocab_size_) continue;
    return absl::InvalidArgumentError(absl::StrCat("the text has a special token whose id is ", id,
                                                   ", the text tower has a vocabulary of ",
                                                   vocab_size_));
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::CheckEosAndPad(const std::string& source) const {
  for (const auto& [name, id] : {std::pair("eos_token", eos_id_), {"pad_token", pad_id_}}) {
    if (id < vocab_size_) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": ", name, " is none of its pieces, and would have id ", id,
                     "; the text tower has a vocabulary of ", vocab_size_));
  }
  return absl::OkStatus();
}

std::string Tokenizer::DescribeIds() const {
  const auto name = [](TextSide side) { return side == TextSide::kLeft ? "left" : "right"; };
  std::string text = absl::StrCat("T = ", text_length_, ", EOS ", eos_id_, ", PAD ", pad_id_,
                                  " on the ", name(padding_side_));
  if (truncation_side_ == TextSide::kLeft) text += ", cut on the left";
  return text;
}

}  // namespace siglip
