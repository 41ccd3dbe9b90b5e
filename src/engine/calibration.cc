#include "engine/calibration.h"

#include <algorithm>
#include <cmath>

namespace siglip {
namespace {

// A number that looks random and is the same everywhere. Source: SplitMix64's finalizer.
std::uint64_t Scramble(std::uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}
std::uint64_t Scramble(std::uint64_t a, std::uint64_t b, std::uint64_t c) {
  return Scramble(Scramble(Scramble(a + 1) + b) + c);
}
// In [-1, 1).
double Noise(std::uint64_t a, std::uint64_t b, std::uint64_t c) {
  return static_cast<double>(Scramble(a, b, c) >> 11) * 0x1p-52 - 1;
}

// A made picture of side by side pixels.
struct Picture {
  const PreprocessorConfig& preprocessor;
  std::uint64_t seed;
  double contrast;
  std::int64_t side;

  float Pixel(std::int64_t channel, std::int64_t y, std::int64_t x) const {
    double sum = 0;
    int octaves = 0;
    for (std::int64_t square = 1; square <= side; square *= 2, ++octaves) {
      const std::uint64_t place = static_cast<std::uint64_t>(y / square * side + x / square);
      const std::uint64_t octave = static_cast<std::uint64_t>(square);
      // Half of it in every channel, as most things are nearly grey.
      sum += Noise(seed, octave, place) +
             Noise(seed + 1 + static_cast<std::uint64_t>(channel), octave, place);
    }
    const double value = std::clamp(0.5 + 0.5 * contrast * sum / std::sqrt(2 * octaves), 0., 1.);
    const std::size_t of = static_cast<std::size_t>(std::min<std::int64_t>(channel, 2));
    return static_cast<float>((value - preprocessor.image_mean[of]) / preprocessor.image_std[of]);
  }
};

}  // namespace

std::vector<float> CalibrationImage(const Checkpoint& checkpoint, std::uint64_t seed,
                                    double contrast) {
  const VisionConfig& config = checkpoint.config().vision;
  const std::int64_t side = config.image_size;
  const Picture picture{checkpoint.preprocessor(), seed, contrast, side};
  std::vector<float> pixels;
  pixels.reserve(static_cast<std::size_t>(config.num_channels * side * side));
  for (std::int64_t channel = 0; channel < config.num_channels; ++channel) {
    for (std::int64_t y = 0; y < side; ++y) {
      for (std::int64_t x = 0; x < side; ++x) pixels.push_back(picture.Pixel(channel, y, x));
    }
  }
  return pixels;
}

std::vector<float> CalibrationPatches(const Checkpoint& checkpoint, std::uint64_t seed,
                                      double contrast, std::int64_t rows, std::int64_t columns) {
  const VisionConfig& config = checkpoint.config().vision;
  const std::int64_t patch = config.patch_size;
  const Picture picture{checkpoint.preprocessor(), seed, contrast, config.table_side * patch};
  std::vector<float> patches;
  patches.reserve(static_cast<std::size_t>(rows * columns * patch * patch * config.num_channels));
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    const std::int64_t top = i / columns * patch;
    const std::int64_t left = i % columns * patch;
    for (std::int64_t y = top; y < top + patch; ++y) {
      for (std::int64_t x = left; x < left + patch; ++x) {
        for (std::int64_t channel = 0; channel < config.num_channels; ++channel) {
          patches.push_back(picture.Pixel(channel, y, x));
        }
      }
    }
  }
  return patches;
}

std::vector<std::int64_t> CalibrationText(const TextConfig& config, std::uint64_t seed,
                                          std::int64_t tokens) {
  const std::uint64_t vocabulary = static_cast<std::uint64_t>(config.vocab_size);
  std::vector<std::int64_t> ids;
  for (std::int64_t i = 0; i < tokens; ++i) {
    const std::uint64_t id = Scramble(seed, static_cast<std::uint64_t>(i), 0) % vocabulary;
    ids.push_back(static_cast<std::int64_t>(id));
  }
  return ids;
}

std::vector<std::int64_t> ExampleText(const TextConfig& config, std::uint64_t seed,
                                      std::int64_t tokens, std::span<const std::int64_t> example) {
  const auto in_vocabulary = [&](std::int64_t id) { return id >= 0 && id < config.vocab_size; };
  if (static_cast<std::int64_t>(example.size()) == tokens &&
      std::all_of(example.begin(), example.end(), in_vocabulary)) {
    return {example.begin(), example.end()};
  }
  constexpr std::int64_t kWords = 5;
  std::vector<std::int64_t> ids = CalibrationText(config, seed, std::min(kWords, tokens));
  ids.resize(static_cast<std::size_t>(tokens), std::min<std::int64_t>(1, config.vocab_size - 1));
  return ids;
}

EmbeddingError ErrorOf(std::span<const float> got, std::span<const float> want) {
  double dot = 0, got_square = 0, want_square = 0, error_square = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double g = static_cast<double>(got[i]);
    const double w = static_cast<double>(want[i]);
    dot += g * w;
    got_square += g * g;
    want_square += w * w;
    error_square += (g - w) * (g - w);
  }
  // Two zeros, too, are equal, though they have no angle.
  if (error_square == 0) return {};
  EmbeddingError error;
  error.one_minus_cosine = 1 - dot / std::sqrt(got_square * want_square);
  error.relative_l2 = std::sqrt(error_square / want_square);
  error.finite = std::isfinite(error.one_minus_cosine) && std::isfinite(error.relative_l2);
  return error;
}

}  // namespace siglip
