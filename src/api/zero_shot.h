#pragma once

// SigLIP's own zero-shot classification: an independent probability per label.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "siglip/siglip.h"

namespace siglip {

// Replaces every {text} and {label} of `text_template` by `label`.
std::string FillTemplate(std::string_view text_template, std::string_view label);

// InvalidArgument for none, and for one without a place for the label: every label would have the
// same text.
absl::Status CheckTemplates(const std::vector<std::string>& templates);

// Thread-compatible.
class ZeroShotClassifier {
 public:
  // Embeds each label in each template; a label's vector is the mean of its normalised text
  // embeddings, normalised again. InvalidArgument: see CheckTemplates. REQUIRES: `labels` is
  // not empty.
  static absl::StatusOr<ZeroShotClassifier> Create(Model& model, std::vector<std::string> labels,
                                                   const std::vector<std::string>& templates);

  const std::vector<std::string>& labels() const { return labels_; }

  // sigmoid(cos(image, label) * exp(logit_scale) + logit_bias) per label.
  std::vector<double> Probabilities(std::span<const float> image_embedding) const;

 private:
  // Adds the normalised embeddings of `texts` to their labels' vectors. They are number `first` and
  // following of all labels in all templates.
  absl::Status AddTexts(Model& model, std::span<const std::string> texts, std::size_t first,
                        std::size_t texts_per_label);

  std::vector<std::string> labels_;
  std::vector<double> label_vectors_;  // [labels, D], each of length 1
  std::size_t width_ = 0;
  double scale_ = 1;
  double bias_ = 0;
};

}  // namespace siglip
