#include "api/front_model.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "api/model_info.h"
#include "base/status_macros.h"
#include "checkpoint/config.h"
#include "checkpoint/preprocessor_config.h"
#include "text/tokenizer.h"

namespace siglip {
namespace {

class FrontModel final : public Model {
 public:
  FrontModel(ModelInfo info, std::unique_ptr<Tokenizer> tokenizer)
      : info_(std::move(info)), tokenizer_(std::move(tokenizer)) {}

  const ModelInfo& info() const override { return info_; }
  absl::StatusOr<std::vector<std::int64_t>> Tokenize(std::string_view text) const override {
    return tokenizer_->Encode(text);
  }
  absl::StatusOr<std::vector<std::int64_t>> TokenizeUnpadded(std::string_view text) const override {
    return tokenizer_->EncodeUnpadded(text);
  }
  absl::StatusOr<TextIds> TokenizeUntil(std::string_view text,
                                        const std::function<bool()>& give_up) const override {
    SIGLIP_ASSIGN_OR_RETURN(PaddedIds padded, tokenizer_->Encode(text, give_up));
    return TextIds{.ids = std::move(padded.ids), .unpadded = padded.unpadded};
  }

  absl::StatusOr<ImageInfo> InspectImage(std::string_view) const override { return NoWeights(); }
  absl::StatusOr<PatchGrid> Preprocess(std::string_view, float*, PreprocessTimes*) const override {
    return NoWeights();
  }
  absl::StatusOr<PatchGrid> PreprocessRgb(const std::uint8_t*, std::int64_t, std::int64_t, float*,
                                          PreprocessTimes*) const override {
    return NoWeights();
  }
  absl::Status EncodePixels(std::span<const ImagePixels>, std::span<float* const>) override {
    return NoWeights();
  }
  absl::Status EncodeTokens(std::span<const std::int64_t* const>, std::int64_t,
                            std::span<float* const>) override {
    return NoWeights();
  }

 private:
  absl::Status NoWeights() const {
    return absl::FailedPreconditionError(
        absl::StrCat(info_.directory, ": opened for its tokenizer only"));
  }

  const ModelInfo info_;
  const std::unique_ptr<Tokenizer> tokenizer_;
};

absl::StatusOr<std::int64_t> MaxPatches(const std::string& directory, const ModelOptions& options) {
  if (options.max_patches > 0) return options.max_patches;
  SIGLIP_ASSIGN_OR_RETURN(const PreprocessorConfig config, ReadPreprocessorConfig(directory, true));
  return config.max_num_patches;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> OpenFrontModel(const std::string& directory,
                                                      const ModelOptions& options) {
  SIGLIP_ASSIGN_OR_RETURN(const SiglipConfig config, ReadSiglipConfig(directory));
  SIGLIP_ASSIGN_OR_RETURN(
      std::unique_ptr<Tokenizer> tokenizer,
      Tokenizer::Open(directory, config.text.max_position_embeddings, config.text.vocab_size));
  std::int64_t max_patches = 0;
  if (config.vision.naflex()) {
    SIGLIP_ASSIGN_OR_RETURN(max_patches, MaxPatches(directory, options));
  }
  ModelInfo info = InfoOf(directory, config, max_patches, *tokenizer);
  info.engine = "none";
  return std::make_unique<FrontModel>(std::move(info), std::move(tokenizer));
}

}  // namespace siglip
