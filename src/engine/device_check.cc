#include "engine/device_check.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "engine/calibration.h"

namespace siglip {
namespace {

// About ten times what 16-bit and e4m3 towers of so400m's depth round by (docs/numerics.md).
double MaxOneMinusCosine(Precision precision) { return precision == Precision::kFp8 ? 1e-2 : 5e-3; }

using Rows = std::vector<std::vector<float>>;

template <class T>
std::vector<T*> Pointers(std::vector<std::vector<T>>& rows) {
  std::vector<T*> pointers;
  for (auto& row : rows) pointers.push_back(row.data());
  return pointers;
}

// `count` pointers, to the rows in turns.
template <class T>
std::vector<const T*> InTurns(const std::vector<std::vector<T>>& rows, std::size_t count) {
  std::vector<const T*> pointers;
  for (std::size_t i = 0; i < count; ++i) pointers.push_back(rows[i % rows.size()].data());
  return pointers;
}

struct Inputs {
  std::vector<std::vector<float>> images;
  std::vector<std::vector<std::int64_t>> texts;
};

// `items` rows: the inputs in turns.
absl::StatusOr<Rows> EmbedImages(Engine& engine, const Inputs& inputs, std::size_t items,
                                 std::size_t width) {
  Rows rows(items, std::vector<float>(width));
  SIGLIP_RETURN_IF_ERROR(engine.EncodeImages(InTurns(inputs.images, items), Pointers(rows)));
  return rows;
}

absl::StatusOr<Rows> EmbedTexts(Engine& engine, const Inputs& inputs, std::size_t items,
                                std::size_t width) {
  Rows rows(items, std::vector<float>(width));
  const auto tokens = static_cast<std::int64_t>(inputs.texts[0].size());
  SIGLIP_RETURN_IF_ERROR(engine.EncodeTexts(InTurns(inputs.texts, items), tokens, Pointers(rows)));
  return rows;
}

// The worst item of one tower.
struct Worst {
  bool finite = true;
  double one_minus_cosine = 0;

  // got: of the inputs in turns.
  void Add(const Rows& got, const Rows& want) {
    for (std::size_t i = 0; i < got.size(); ++i) {
      const EmbeddingError error = ErrorOf(got[i], want[i % want.size()]);
      finite = finite && error.finite;
      one_minus_cosine = std::max(one_minus_cosine, error.one_minus_cosine);
    }
  }
};

}  // namespace

absl::StatusOr<std::string> CheckDevice(const Checkpoint& checkpoint, Precision precision,
                                        std::span<const std::int64_t> example_text, Engine& device,
                                        int num_devices, int max_batch_size, Engine& reference) {
  const SiglipConfig& config = checkpoint.config();
  const std::int64_t tokens = UsualTokens(config.text, example_text);
  const Inputs inputs = {
      .images = {CalibrationImage(checkpoint, 100, 1), CalibrationImage(checkpoint, 200, 4)},
      .texts = {CalibrationText(config.text, 300, tokens),
                ExampleText(config.text, 400, tokens, example_text)}};
  const auto width = static_cast<std::size_t>(config.embedding_size());
  SIGLIP_ASSIGN_OR_RETURN(const Rows want_images,
                          EmbedImages(reference, inputs, inputs.images.size(), width));
  SIGLIP_ASSIGN_OR_RETURN(const Rows want_texts,
                          EmbedTexts(reference, inputs, inputs.texts.size(), width));
  Worst vision, text;
  for (std::size_t items = 1; items <= static_cast<std::size_t>(max_batch_size); ++items) {
    for (int i = 0; i < num_devices; ++i) {
      SIGLIP_ASSIGN_OR_RETURN(const Rows images, EmbedImages(device, inputs, items, width));
      vision.Add(images, want_images);
    }
    for (int i = 0; i < num_devices; ++i) {
      SIGLIP_ASSIGN_OR_RETURN(const Rows texts, EmbedTexts(device, inputs, items, width));
      text.Add(texts, want_texts);
    }
  }
  const double limit = MaxOneMinusCosine(precision);
  const bool finite = vision.finite && text.finite;
  const std::string measured = absl::StrFormat(
      "1-cos to the CPU's float32: vision %.2g, text %.2g, limit %g%s", vision.one_minus_cosine,
      text.one_minus_cosine, limit, finite ? "" : "; not all finite");
  if (finite && vision.one_minus_cosine <= limit && text.one_minus_cosine <= limit) return measured;
  return absl::InternalError(absl::StrCat("self-check failed: ", measured));
}

}  // namespace siglip
