#include "api/model_info.h"

namespace siglip {

ModelInfo InfoOf(const std::string& directory, const SiglipConfig& config, std::int64_t max_patches,
                 const Tokenizer& tokenizer) {
  ModelInfo info;
  info.directory = directory;
  info.image_size = config.vision.image_size;
  info.patch_size = config.vision.patch_size;
  info.max_patches = max_patches;
  info.embedding_size = config.embedding_size();
  info.text_length = tokenizer.text_length();
  info.vocab_size = config.text.vocab_size;
  return info;
}

}  // namespace siglip
