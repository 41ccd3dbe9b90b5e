#include "image/resize.h"

#include "absl/strings/str_cat.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace siglip {
namespace {

// Pillow's bicubic_filter with a = -0.5.
double Bicubic(double x) {
  constexpr double a = -0.5;
  if (x < 0.0) x = -x;
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

double Bilinear(double x) {
  if (x < 0.0) x = -x;
  return x < 1.0 ? 1.0 - x : 0.0;
}

struct Geometry {
  double scale;
  double filter_scale;
  double support;
  std::int64_t max_taps;
};

Geometry GeometryOf(int in_size, int out_size, Resample filter) {
  Geometry g;
  // Pillow's box is float32, so sides above 2^24 are rounded.
  g.scale = static_cast<double>(static_cast<float>(in_size)) / out_size;
  g.filter_scale = std::max(g.scale, 1.0);
  g.support = (filter == Resample::kBicubic ? 2.0 : 1.0) * g.filter_scale;
  g.max_taps = static_cast<std::int64_t>(std::ceil(g.support)) * 2 + 1;
  return g;
}

std::int32_t FixedPoint(double k) {
  const double scaled = k * (1 << kCoefficientBits);
  return static_cast<std::int32_t>(k < 0 ? -0.5 + scaled : 0.5 + scaled);
}

std::int64_t PaddedTaps(std::int64_t max_taps) { return (max_taps + 3) / 4 * 4; }

void StoreTap(std::int16_t* taps, int index, std::int32_t k) {
  std::int16_t* group = taps + (index / 4) * 8 + index % 4;
  group[0] = static_cast<std::int16_t>(k >> 11);
  group[4] = static_cast<std::int16_t>(k & 2047);
}

}  // namespace

absl::StatusOr<ResampleTable> MakeResampleTable(int in_size, int out_size, Resample filter) {
  const Geometry g = GeometryOf(in_size, out_size, filter);
  const std::int64_t padded = PaddedTaps(g.max_taps);
  const std::int64_t bytes = padded * out_size * 4;
  if (bytes > kMaxResampleTableBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("resize from ", in_size, " to ", out_size, " pixels needs ", bytes,
                     " bytes of coefficients, the limit is ", kMaxResampleTableBytes));
  }
  ResampleTable table;
  table.in_size = in_size;
  table.out_size = out_size;
  table.padded_taps = static_cast<int>(padded);
  table.first.resize(static_cast<std::size_t>(out_size));
  table.count.resize(static_cast<std::size_t>(out_size));
  table.taps = AlignedBuffer<std::int16_t>(static_cast<std::size_t>(padded * 2 * out_size));
  std::fill_n(table.taps.data(), table.taps.size(), std::int16_t{0});

  std::vector<double> weights(static_cast<std::size_t>(g.max_taps));
  const double inverse_scale = 1.0 / g.filter_scale;
  for (int o = 0; o < out_size; ++o) {
    const double center = (o + 0.5) * g.scale;
    const int low = std::max(static_cast<int>(center - g.support + 0.5), 0);
    const int high = std::min(static_cast<int>(center + g.support + 0.5), in_size);
    // Of sides above 2^24 the rounded scale can put the last centres past the input.
    const int count = std::max(high - low, 0);
    double sum = 0.0;
    for (int j = 0; j < count; ++j) {
      const double x = (j + low - center + 0.5) * inverse_scale;
      weights[static_cast<std::size_t>(j)] =
          filter == Resample::kBicubic ? Bicubic(x) : Bilinear(x);
      sum += weights[static_cast<std::size_t>(j)];
    }
    std::int16_t* taps =
        table.taps.data() + static_cast<std::size_t>(o) * static_cast<std::size_t>(padded) * 2;
    for (int j = 0; j < count; ++j) {
      double k = weights[static_cast<std::size_t>(j)];
      if (sum != 0.0) k /= sum;
      StoreTap(taps, j, FixedPoint(k));
    }
    table.first[static_cast<std::size_t>(o)] = low;
    table.count[static_cast<std::size_t>(o)] = count;
  }
  return table;
}

bool VerticalPassFirst(int in_width, int in_height, int out_width, int out_height,
                       PillowVersion pillow) {
  const std::int64_t less_height = std::int64_t{in_height} - out_height;
  const std::int64_t less_width = std::int64_t{in_width} - out_width;
  return pillow == PillowVersion::k13 && less_height > 0 && less_height > less_width * 2;
}

std::int64_t ResizeScratchBytes(std::int64_t in_width, std::int64_t in_height, int out_width,
                                int out_height) {
  // Coefficients of both axes at 4 bytes a tap (about 4 taps per input pixel), and the ring of rows
  // between the passes, for the worse of the two orders.
  const std::int64_t table = (in_width + out_width + in_height + out_height) * 20;
  const std::int64_t ring_rows = 4 * (in_height / std::max(out_height, 1)) + 16;
  const std::int64_t ring = std::max(ring_rows * out_width * 3, 4 * in_width * 3);
  return std::min(table, 2 * kMaxResampleTableBytes) + std::min(ring, kMaxResampleRingBytes) +
         (1 << 16);
}

}  // namespace siglip
