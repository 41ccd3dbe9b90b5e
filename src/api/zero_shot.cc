#include "api/zero_shot.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "api/many.h"
#include "base/status_macros.h"

namespace siglip {
namespace {

// Bounds the memory of their embeddings: 1 MiB at so400m's width.
constexpr std::size_t kTextsAtOnce = 256;

double Norm(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

// A zero vector stays zero: its cosine to everything is 0.
void Normalise(std::span<double> values) {
  const double norm = Norm(values);
  if (norm == 0) return;
  for (double& value : values) value /= norm;
}

}  // namespace

std::string FillTemplate(std::string_view text_template, std::string_view label) {
  const std::string value(label);
  return absl::StrReplaceAll(std::string(text_template), {{"{text}", value}, {"{label}", value}});
}

absl::Status CheckTemplates(const std::vector<std::string>& templates) {
  if (templates.empty()) {
    return absl::InvalidArgumentError("templates: expected at least one, got none");
  }
  for (const std::string& text_template : templates) {
    if (FillTemplate(text_template, "") == text_template) {
      return absl::InvalidArgumentError(absl::StrCat(
          "template \"", text_template, "\": expected {text} or {label} in it, got neither"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ZeroShotClassifier> ZeroShotClassifier::Create(
    Model& model, std::vector<std::string> labels, const std::vector<std::string>& templates) {
  SIGLIP_RETURN_IF_ERROR(CheckTemplates(templates));
  ZeroShotClassifier classifier;
  classifier.labels_ = std::move(labels);
  classifier.width_ = static_cast<std::size_t>(model.info().embedding_size);
  classifier.scale_ = std::exp(static_cast<double>(model.info().logit_scale));
  classifier.bias_ = static_cast<double>(model.info().logit_bias);
  classifier.label_vectors_.assign(classifier.labels_.size() * classifier.width_, 0.0);

  std::vector<std::string> texts;
  for (const std::string& label : classifier.labels_) {
    for (const std::string& text_template : templates) {
      texts.push_back(FillTemplate(text_template, label));
    }
  }
  for (std::size_t begin = 0; begin < texts.size(); begin += kTextsAtOnce) {
    const auto some = std::span(texts).subspan(begin, std::min(kTextsAtOnce, texts.size() - begin));
    SIGLIP_RETURN_IF_ERROR(classifier.AddTexts(model, some, begin, templates.size()));
  }
  for (std::size_t i = 0; i < classifier.labels_.size(); ++i) {
    Normalise(
        std::span(classifier.label_vectors_).subspan(i * classifier.width_, classifier.width_));
  }
  return classifier;
}

absl::Status ZeroShotClassifier::AddTexts(Model& model, std::span<const std::string> texts,
                                          std::size_t first, std::size_t texts_per_label) {
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  std::vector<float> rows(texts.size() * width_);
  std::vector<absl::Status> statuses(texts.size());
  SIGLIP_RETURN_IF_ERROR(EmbedManyTexts(model, views, rows.data(), statuses));
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (!statuses[i].ok()) {
      return absl::Status(statuses[i].code(),
                          absl::StrCat("label \"", texts[i], "\": ", statuses[i].message()));
    }
    const float* row = rows.data() + i * width_;
    std::vector<double> values(row, row + width_);
    Normalise(values);
    double* sum = label_vectors_.data() + (first + i) / texts_per_label * width_;
    for (std::size_t d = 0; d < width_; ++d) sum[d] += values[d];
  }
  return absl::OkStatus();
}

std::vector<double> ZeroShotClassifier::Probabilities(
    std::span<const float> image_embedding) const {
  std::vector<double> image(image_embedding.begin(), image_embedding.end());
  Normalise(image);
  std::vector<double> probabilities;
  for (std::size_t i = 0; i < labels_.size(); ++i) {
    double cosine = 0;
    for (std::size_t d = 0; d < width_; ++d) cosine += image[d] * label_vectors_[i * width_ + d];
    probabilities.push_back(1 / (1 + std::exp(-(cosine * scale_ + bias_))));
  }
  return probabilities;
}

}  // namespace siglip
