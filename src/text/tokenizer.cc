#include "text/tokenizer.h"

#include <filesystem>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "text/gemma_tokenizer.h"
#include "text/sentencepiece_tokenizer.h"

namespace siglip {
namespace {

// The i18n checkpoint's 250,000 pieces take 4.5 MB, SigLIP 2's 256,000 with their merges 34 MB.
constexpr std::uint64_t kMaxModelBytes = 128 << 20;
constexpr std::uint64_t kMaxConfigBytes = 16 << 20;

// Siglip2Tokenizer's own.
SiglipTokenizerConfig GemmaDefaults() {
  SiglipTokenizerConfig config;
  config.eos_token = "<eos>";
  config.pad_token = "<pad>";
  config.model_max_length = std::numeric_limits<std::int64_t>::max();
  return config;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Open(const std::string& directory,
                                                           std::int64_t max_position_embeddings,
                                                           std::int64_t vocab_size) {
  const std::string model_path = directory + "/spiece.model";
  const std::string config_path = directory + "/tokenizer_config.json";
  const std::string json_path = directory + "/tokenizer.json";
  std::error_code error;
  const bool gemma = !std::filesystem::exists(model_path, error);
  if (gemma && !std::filesystem::exists(json_path, error)) {
    return absl::NotFoundError(absl::StrCat(
        directory, ": expected spiece.model (SigLIP 1) or tokenizer.json (SigLIP 2), got neither"));
  }
  std::string config_json = "{}";
  if (std::filesystem::exists(config_path, error)) {
    SIGLIP_ASSIGN_OR_RETURN(config_json, ReadFile(config_path, kMaxConfigBytes));
  }
  SIGLIP_ASSIGN_OR_RETURN(
      const SiglipTokenizerConfig config,
      ParseSiglipTokenizerConfig(config_json, config_path,
                                 gemma ? GemmaDefaults() : SiglipTokenizerConfig()));
  SIGLIP_ASSIGN_OR_RETURN(const std::string model,
                          ReadFile(gemma ? json_path : model_path, kMaxModelBytes));
  return gemma
             ? GemmaTokenizer::Create(model, json_path, config, max_position_embeddings, vocab_size)
             : SentencePieceTokenizer::Create(model, model_path, config, max_position_embeddings,
                                              vocab_size);
}

absl::StatusOr<std::vector<std::int64_t>> Tokenizer::Encode(std::string_view text) const {
  SIGLIP_ASSIGN_OR_RETURN(std::vector<std::int64_t> ids, EncodeUnpadded(text));
  const std::size_t missing = static_cast<std::size_t>(text_length_) - ids.size();
  ids.insert(padding_side_ == TextSide::kLeft ? ids.begin() : ids.end(), missing, pad_id_);
  return ids;
}

std::string Tokenizer::DescribeIds() const {
  const auto name = [](TextSide side) { return side == TextSide::kLeft ? "left" : "right"; };
  std::string text = absl::StrCat("T = ", text_length_, ", EOS ", eos_id_, ", PAD ", pad_id_,
                                  " on the ", name(padding_side_));
  if (truncation_side_ == TextSide::kLeft) text += ", cut on the left";
  return text;
}

}  // namespace siglip
