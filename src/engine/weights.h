#pragma once

// Parts of a network as the kernels want them, from a checkpoint.

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "base/aligned_buffer.h"
#include "checkpoint/checkpoint.h"
#include "kernels/gemm.h"

namespace siglip {

struct Linear {
  PackedMatrix w;
  AlignedBuffer<float> bias;

  std::size_t bytes() const { return w.bytes() + bias.size() * sizeof(float); }
};

struct Norm {
  AlignedBuffer<float> weight;
  AlignedBuffer<float> bias;

  std::size_t bytes() const { return (weight.size() + bias.size()) * sizeof(float); }
};

AlignedBuffer<float> LoadTensor(const Checkpoint& checkpoint, std::string_view name);
// `name`.weight (any shape whose first dimension is the output) and `name`.bias.
Linear LoadLinear(const Checkpoint& checkpoint, const std::string& name,
                  GemmFormat format = GemmFormat::kFp32);
// Several of one input as one, whose output is theirs one after the other.
Linear LoadStackedLinears(const Checkpoint& checkpoint, std::initializer_list<std::string> names,
                          GemmFormat format);
Norm LoadNorm(const Checkpoint& checkpoint, const std::string& name);

}  // namespace siglip
