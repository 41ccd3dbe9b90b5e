#pragma once

// Inputs that are made, not read, for checking an engine's arithmetic with a checkpoint at load,
// and the measure of two embeddings.

#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace siglip {

// [3,S,S], normalised as the checkpoint wants it. Squares of 1, 2, 4, ... pixels with independent
// values of equal variance: the spectrum of photographs, and their edges. `contrast` above 1 clips:
// large black and white areas. The same bits on every machine.
std::vector<float> CalibrationImage(const Checkpoint& checkpoint, std::uint64_t seed,
                                    double contrast);

// The same for a NaFlex checkpoint: the upper left corner of such a picture, as large as the table
// of positions, in `rows` by `columns` patches (see PatchImage).
std::vector<float> CalibrationPatches(const Checkpoint& checkpoint, std::uint64_t seed,
                                      double contrast, std::int64_t rows, std::int64_t columns);

// `tokens` ids of the vocabulary.
std::vector<std::int64_t> CalibrationText(const TextConfig& config, std::uint64_t seed,
                                          std::int64_t tokens);

// `example` (see EngineOptions::example_text) if it is a text of this model with `tokens` ids; else
// a made one, in which all ids but a few are one and the same, as padding is.
std::vector<std::int64_t> ExampleText(const TextConfig& config, std::uint64_t seed,
                                      std::int64_t tokens, std::span<const std::int64_t> example);

struct EmbeddingError {
  bool finite = true;
  double one_minus_cosine = 0;
  double relative_l2 = 0;
};

EmbeddingError ErrorOf(std::span<const float> got, std::span<const float> want);

}  // namespace siglip
