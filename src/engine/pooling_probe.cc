#include "engine/pooling_probe.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>

#include "base/checked_math.h"

namespace siglip {

std::vector<float> LoadTensor(const Checkpoint& checkpoint, const std::string& name) {
  const std::optional<std::int64_t> count = ElementCount(checkpoint.tensor(name).shape);
  std::vector<float> values(static_cast<std::size_t>(*count));
  checkpoint.CopyFloat(name, values);
  return values;
}

std::vector<float> FoldedProbe(const Checkpoint& checkpoint) {
  const std::string head = kPoolingHead;
  const std::vector<float> probe = LoadTensor(checkpoint, head + "probe");
  const std::vector<float> weight = LoadTensor(checkpoint, head + "attention.in_proj_weight");
  const std::vector<float> bias = LoadTensor(checkpoint, head + "attention.in_proj_bias");
  const std::int64_t heads = checkpoint.config().vision.num_attention_heads;
  const std::int64_t width = static_cast<std::int64_t>(probe.size());
  const std::int64_t head_dim = width / heads;
  const double scale = 1 / std::sqrt(static_cast<double>(head_dim));
  std::vector<double> folded(static_cast<std::size_t>(heads * width), 0.0);
  for (std::int64_t row = 0; row < width; ++row) {
    double q = bias[row];
    for (std::int64_t i = 0; i < width; ++i) {
      q += static_cast<double>(weight[row * width + i]) * static_cast<double>(probe[i]);
    }
    const float* key_row = weight.data() + (width + row) * width;
    double* to = folded.data() + row / head_dim * width;
    for (std::int64_t i = 0; i < width; ++i) to[i] += scale * q * static_cast<double>(key_row[i]);
  }
  std::vector<float> rounded(folded.size());
  std::transform(folded.begin(), folded.end(), rounded.begin(),
                 [](double value) { return static_cast<float>(value); });
  return rounded;
}

}  // namespace siglip
