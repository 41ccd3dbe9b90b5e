#include "text/tokenizer.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "text/sentencepiece_tokenizer.h"

namespace siglip {
namespace {

// The i18n checkpoint's 250,000 pieces take 4.5 MB.
constexpr std::uint64_t kMaxModelBytes = 64 << 20;
constexpr std::uint64_t kMaxConfigBytes = 16 << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Open(const std::string& directory,
                                                           std::int64_t max_position_embeddings,
                                                           std::int64_t vocab_size) {
  const std::string model_path = directory + "/spiece.model";
  const std::string config_path = directory + "/tokenizer_config.json";
  std::error_code error;
  if (!std::filesystem::exists(model_path, error)) {
    const bool gemma = std::filesystem::exists(directory + "/tokenizer.json", error);
    return absl::NotFoundError(absl::StrCat(
        model_path, ": not found",
        gemma ? "; tokenizer.json alone (SigLIP 2) is not supported" : " (a SigLIP 1 tokenizer)"));
  }
  SIGLIP_ASSIGN_OR_RETURN(const std::string model, ReadFile(model_path, kMaxModelBytes));
  std::string config_json = "{}";
  if (std::filesystem::exists(config_path, error)) {
    SIGLIP_ASSIGN_OR_RETURN(config_json, ReadFile(config_path, kMaxConfigBytes));
  }
  SIGLIP_ASSIGN_OR_RETURN(const SiglipTokenizerConfig config,
                          ParseSiglipTokenizerConfig(config_json, config_path));
  return SentencePieceTokenizer::Create(model, model_path, config, max_position_embeddings,
                                        vocab_size);
}

absl::StatusOr<std::vector<std::int64_t>> Tokenizer::Encode(std::string_view text) const {
  SIGLIP_ASSIGN_OR_RETURN(std::vector<std::int64_t> ids, EncodeUnpadded(text));
  ids.resize(static_cast<std::size_t>(text_length_), pad_id_);
  return ids;
}

}  // namespace siglip
