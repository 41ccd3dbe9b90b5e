#pragma once

// 8-bit RGB -> float32 planes or patches, through one table of 256 values a channel.

#include "image/preprocess.h"

#include <array>

namespace siglip {

// (float32(v * rescale) - float32(mean)) / float32(std) for v = 0..255, the product in float64: the
// arithmetic of transformers' SiglipImageProcessorPil, bitwise.
std::array<float, 256> NormalizeTable(double rescale, double mean, double std);

// pixels [3, height, width] float32.
void NormalizeRgb(const RgbImage& image, const std::array<std::array<float, 256>, 3>& table,
                  float* pixels);

// patches [rows * columns, patch * patch * 3] float32: a row of the grid after the other, each
// patch in the order (y, x, channel). Returns their end. REQUIRES: the image's sides are multiples
// of `patch`.
float* NormalizePatches(const RgbImage& image, int patch,
                        const std::array<std::array<float, 256>, 3>& table, float* patches);

}  // namespace siglip
