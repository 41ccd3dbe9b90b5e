#include "engine/weights.h"

#include <algorithm>

namespace siglip {

Linear LoadStackedLinears(const Checkpoint& checkpoint, std::initializer_list<std::string> names,
                          GemmFormat format) {
  std::int64_t outputs = 0;
  std::int64_t inputs = 0;
  for (const std::string& name : names) {
    const std::vector<std::int64_t>& shape = checkpoint.tensor(name + ".weight").shape;
    outputs += shape[0];
    inputs = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) inputs *= shape[i];
  }
  Linear linear{PackedMatrix(outputs, inputs, format),
                AlignedBuffer<float>(static_cast<std::size_t>(outputs))};
  std::int64_t first = 0;
  for (const std::string& name : names) {
    const std::int64_t count = checkpoint.tensor(name + ".weight").shape[0];
    linear.w.SetRows(first, count, LoadTensor(checkpoint, name + ".weight").data());
    checkpoint.CopyFloat(name + ".bias",
                         linear.bias.span().subspan(static_cast<std::size_t>(first),
                                                    static_cast<std::size_t>(count)));
    first += count;
  }
  return linear;
}

AlignedBuffer<float> LoadTensor(const Checkpoint& checkpoint, std::string_view name) {
  std::size_t count = 1;
  for (const std::int64_t dim : checkpoint.tensor(name).shape)
    count *= static_cast<std::size_t>(dim);
  AlignedBuffer<float> values(count);
  checkpoint.CopyFloat(name, values.span());
  return values;
}

Linear LoadLinear(const Checkpoint& checkpoint, const std::string& name, GemmFormat format) {
  return LoadStackedLinears(checkpoint, {name}, format);
}

Norm LoadNorm(const Checkpoint& checkpoint, const std::string& name) {
  return {LoadTensor(checkpoint, name + ".weight"), LoadTensor(checkpoint, name + ".bias")};
}

}  // namespace siglip
