#include "engine/weights.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file_map.h"
#include "checkpoint/linear_shape.h"

namespace siglip {

void WeightLoader::Read(const StoredTensor& tensor, std::int64_t first, std::span<float> to) const {
  CopyFloats(tensor, first, to);
  if (change_ != nullptr) change_(to);
}

WeightArray WeightLoader::Array(std::string_view name, std::size_t count, const Fill& fill) {
  if (file_ != nullptr) return WeightArray(file_->Next(name, count));
  AlignedBuffer<float> values(count);
  fill(values.span());
  if (writer_ == nullptr) return WeightArray(std::move(values));
  writer_->Append(name, values.span());
  return {};
}

PackedMatrix WeightLoader::Matrix(std::string_view name, std::int64_t n, std::int64_t k,
                                  GemmFormat format, const Pack& pack) {
  if (file_ != nullptr) {
    const auto memory = file_->Next(name, PackedMatrix::MemoryFloats(n, k, format));
    return memory.empty() ? PackedMatrix() : PackedMatrix(n, k, format, memory);
  }
  PackedMatrix matrix(n, k, format);
  pack(matrix);
  if (writer_ == nullptr) return matrix;
  writer_->Append(name, matrix.memory());
  return {};
}

WeightArray WeightLoader::Tensor(const std::string& name) {
  const StoredTensor& tensor = checkpoint_.tensor(name);
  return Array(name, static_cast<std::size_t>(Outputs(tensor) * Inputs(tensor)),
               [&](std::span<float> values) {
                 Read(tensor, 0, values);
                 DropPages(tensor.bytes);
               });
}

Linear WeightLoader::LoadStackedLinears(std::initializer_list<std::string> names,
                                        GemmFormat format) {
  std::int64_t outputs = 0;
  std::int64_t inputs = 0;
  for (const std::string& name : names) {
    outputs += Outputs(checkpoint_.tensor(name + ".weight"));
    inputs = Inputs(checkpoint_.tensor(name + ".weight"));
  }
  const std::string all = absl::StrJoin(names, "+");
  Linear linear;
  linear.w = Matrix(all + ".weight", outputs, inputs, format, [&](PackedMatrix& w) {
    std::int64_t begin = 0;
    for (const std::string& name : names) {
      const StoredTensor& tensor = checkpoint_.tensor(name + ".weight");
      w.SetRows(team_, begin, Outputs(tensor),
                [&](std::int64_t first, std::int64_t count, float* to) {
                  Read(tensor, first * inputs, {to, static_cast<std::size_t>(count * inputs)});
                });
      // Packed and stored, the weights must not be in memory twice.
      DropPages(tensor.bytes);
      begin += Outputs(tensor);
    }
  });
  linear.bias = Array(all + ".bias", static_cast<std::size_t>(outputs), [&](std::span<float> bias) {
    for (const std::string& name : names) {
      const StoredTensor& tensor = checkpoint_.tensor(name + ".bias");
      const std::size_t count = static_cast<std::size_t>(Outputs(tensor));
      Read(tensor, 0, bias.first(count));
      bias = bias.subspan(count);
    }
  });
  return linear;
}

Linear WeightLoader::LoadLinear(const std::string& name, GemmFormat format) {
  return LoadStackedLinears({name}, format);
}

Norm WeightLoader::LoadNorm(const std::string& name) {
  Norm norm;
  norm.weight = Tensor(name + ".weight");
  norm.bias = Tensor(name + ".bias");
  return norm;
}

}  // namespace siglip
