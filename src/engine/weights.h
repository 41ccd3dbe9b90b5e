#pragma once

// Parts of a network as the kernels want them: packed from a checkpoint, or taken from a file that
// holds them packed.

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "checkpoint/checkpoint.h"
#include "engine/weight_file.h"
#include "kernels/gemm.h"

namespace siglip {

// Floats that are read only, its own or borrowed.
class WeightArray {
 public:
  WeightArray() = default;
  explicit WeightArray(AlignedBuffer<float> owned)
      : owned_(std::move(owned)), values_(owned_.span()) {}
  explicit WeightArray(std::span<const float> borrowed) : values_(borrowed) {}

  const float* data() const { return values_.data(); }
  std::size_t size() const { return values_.size(); }

 private:
  AlignedBuffer<float> owned_;
  std::span<const float> values_;
};

struct Linear {
  PackedMatrix w;
  WeightArray bias;

  std::size_t bytes() const { return w.bytes() + bias.size() * sizeof(float); }
};

struct Norm {
  WeightArray weight;
  WeightArray bias;

  std::size_t bytes() const { return (weight.size() + bias.size()) * sizeof(float); }
};

// Gives the towers their parts, always in the same order. Confined to one thread; borrows all that
// it is made of.
class WeightLoader {
 public:
  using Fill = std::function<void(std::span<float>)>;
  using Pack = std::function<void(PackedMatrix&)>;
  // Changes the values of a tensor, or of some rows of it; called by several workers at once.
  using Change = void (*)(std::span<float>);

  // From the checkpoint, into memory. change: what is done to every Tensor, Linear and Norm.
  WeightLoader(const Checkpoint& checkpoint, ThreadTeam& team, Change change = nullptr)
      : checkpoint_(checkpoint), team_(team), change_(change) {}
  // From `file`, which the parts borrow from: look at its status() before using them.
  WeightLoader(const Checkpoint& checkpoint, ThreadTeam& team, WeightFile& file)
      : checkpoint_(checkpoint), team_(team), file_(&file) {}
  // From the checkpoint into a file: one part at a time is in memory, what is returned is empty.
  WeightLoader(const Checkpoint& checkpoint, ThreadTeam& team, WeightFileWriter& writer)
      : checkpoint_(checkpoint), team_(team), writer_(&writer) {}

  const Checkpoint& checkpoint() const { return checkpoint_; }

  // A tensor as it is.
  WeightArray Tensor(const std::string& name);
  // `name`.weight (any shape whose first dimension is the output) and `name`.bias.
  Linear LoadLinear(const std::string& name, GemmFormat format = GemmFormat::kFp32);
  // Several of one input as one, whose output is theirs one after the other.
  Linear LoadStackedLinears(std::initializer_list<std::string> names, GemmFormat format);
  Norm LoadNorm(const std::string& name);
  // What is not a tensor as it is: `fill` and `pack` compute it from the checkpoint, if need be.
  WeightArray Array(std::string_view name, std::size_t count, const Fill& fill);
  PackedMatrix Matrix(std::string_view name, std::int64_t n, std::int64_t k, GemmFormat format,
                      const Pack& pack);

 private:
  void Read(const StoredTensor& tensor, std::int64_t first, std::span<float> to) const;

  const Checkpoint& checkpoint_;
  ThreadTeam& team_;
  Change change_ = nullptr;
  WeightFile* file_ = nullptr;
  WeightFileWriter* writer_ = nullptr;
};

}  // namespace siglip
