#pragma once

// A Model without a checkpoint, for tests: pixels and ids pass through, so that embeddings are
// predictable.

#include <algorithm>
#include <string>
#include <vector>

#include "siglip/siglip.h"

namespace siglip {

// S = 2, D = 2, T = 2. An image file's first byte is its value v: the embedding is [v, 1]; "bad..."
// is refused. A text's ids are {its length, 0}: the embedding is [length, 2]; there is no
// memory for "big".
class FakeModel : public Model {
 public:
  FakeModel() {
    info_.image_size = 2;
    info_.patch_size = 2;
    info_.embedding_size = 2;
    info_.text_length = 2;
    info_.vocab_size = 1000;
  }
  ModelInfo& mutable_info() { return info_; }
  const std::vector<std::size_t>& batches() const { return batches_; }

  const ModelInfo& info() const override { return info_; }
  absl::StatusOr<ImageInfo> InspectImage(std::string_view) const override { return ImageInfo{}; }
  using Model::Preprocess;
  absl::StatusOr<PatchGrid> Preprocess(std::string_view bytes, float* pixels,
                                       PreprocessTimes*) const override {
    if (bytes.starts_with("bad")) return absl::InvalidArgumentError("no image");
    std::fill_n(pixels, 12, static_cast<float>(static_cast<unsigned char>(bytes[0])));
    return PatchGrid{1, 1};
  }
  using Model::PreprocessRgb;
  absl::StatusOr<PatchGrid> PreprocessRgb(const std::uint8_t* rgb, std::int64_t, std::int64_t,
                                          float* pixels, PreprocessTimes*) const override {
    std::fill_n(pixels, 12, static_cast<float>(rgb[0]));
    return PatchGrid{1, 1};
  }
  using Model::EncodePixels;
  absl::Status EncodePixels(std::span<const ImagePixels> images,
                            std::span<float* const> embeddings) override {
    batches_.push_back(images.size());
    for (std::size_t i = 0; i < images.size(); ++i) {
      embeddings[i][0] = images[i].values[11];
      embeddings[i][1] = 1;
    }
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<std::int64_t>> Tokenize(std::string_view text) const override {
    if (text == "\xff") return absl::InvalidArgumentError("not UTF-8 at byte 0");
    if (text == "big") return absl::ResourceExhaustedError("out of memory");
    return std::vector<std::int64_t>{static_cast<std::int64_t>(text.size()), 0};
  }
  absl::StatusOr<std::vector<std::int64_t>> TokenizeUnpadded(std::string_view text) const override {
    return Tokenize(text);
  }
  absl::Status EncodeTokens(std::span<const std::int64_t* const> ids, std::int64_t,
                            std::span<float* const> embeddings) override {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      embeddings[i][0] = static_cast<float>(ids[i][0]);
      embeddings[i][1] = 2;
    }
    return absl::OkStatus();
  }

 private:
  ModelInfo info_;
  std::vector<std::size_t> batches_;
};

}  // namespace siglip
