#pragma once

// 8-bit RGB -> float32 planes, through one table of 256 values a channel.

#include "image/preprocess.h"

#include <array>

namespace siglip {

// (float32(v * rescale) - float32(mean)) / float32(std) for v = 0..255, the product in float64: the
// arithmetic of transformers' SiglipImageProcessorPil, bitwise.
std::array<float, 256> NormalizeTable(double rescale, double mean, double std);

// pixels [3, height, width] float32.
void NormalizeRgb(const RgbImage& image, const std::array<std::array<float, 256>, 3>& table,
                  float* pixels);

}  // namespace siglip
