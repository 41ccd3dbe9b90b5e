#include "engine/position_table.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/parallel.h"

namespace siglip {
namespace {

// What one place of an axis of the grid takes from the table.
struct Taps {
  std::int64_t first = 0;
  std::vector<double> weights;
};

// Source: torch 2.15 aten/src/ATen/native/cpu/UpSampleKernel.cpp, compute_index_ranges_weights, in
// float64; the same as Pillow's precompute_coeffs.
std::vector<Taps> MakeTaps(std::int64_t from, std::int64_t to) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double support = std::max(scale, 1.0);
  std::vector<Taps> places;
  for (std::int64_t i = 0; i < to; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    Taps taps;
    taps.first = std::max<std::int64_t>(static_cast<std::int64_t>(center - support + 0.5), 0);
    const std::int64_t end = std::min(static_cast<std::int64_t>(center + support + 0.5), from);
    double sum = 0;
    for (std::int64_t j = taps.first; j < end; ++j) {
      const double distance = (static_cast<double>(j) - center + 0.5) / support;
      taps.weights.push_back(std::max(0.0, 1 - std::abs(distance)));
      sum += taps.weights.back();
    }
    for (double& weight : taps.weights) weight /= sum;
    places.push_back(std::move(taps));
  }
  return places;
}

// Channels that are summed at a time: their sums stay in the first-level cache.
constexpr std::int64_t kChannels = 128;

void ResizeOne(const PositionTable& call, const Taps& row, const Taps& column, float* to) {
  for (std::int64_t channel = 0; channel < call.width; channel += kChannels) {
    const std::int64_t count = std::min(kChannels, call.width - channel);
    double sums[kChannels] = {};
    for (std::size_t y = 0; y < row.weights.size(); ++y) {
      for (std::size_t x = 0; x < column.weights.size(); ++x) {
        const double weight = row.weights[y] * column.weights[x];
        const std::int64_t place = (row.first + static_cast<std::int64_t>(y)) * call.side +
                                   column.first + static_cast<std::int64_t>(x);
        const float* from = call.table + place * call.width + channel;
        for (std::int64_t i = 0; i < count; ++i) sums[i] += weight * static_cast<double>(from[i]);
      }
    }
    for (std::int64_t i = 0; i < count; ++i) to[channel + i] = static_cast<float>(sums[i]);
  }
}

}  // namespace

void ResizePositions(ThreadTeam& team, const PositionTable& call, float* to) {
  const std::vector<Taps> rows = MakeTaps(call.side, call.rows);
  const std::vector<Taps> columns = MakeTaps(call.side, call.columns);
  ParallelFor(team, call.rows * call.columns, [&](int, std::int64_t i) {
    ResizeOne(call, rows[static_cast<std::size_t>(i / call.columns)],
              columns[static_cast<std::size_t>(i % call.columns)], to + i * call.width);
  });
}

}  // namespace siglip
