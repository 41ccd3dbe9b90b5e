#include "engine/patch_rows.h"

#include <algorithm>

#include "kernels/parallel.h"

namespace siglip {

void GatherPatches(ThreadTeam& team, const PatchRowsCall& call, float* to) {
  const std::int64_t p = call.patch;
  const std::int64_t width = call.channels * p * p;
  // A piece of work is a row of patches: whole lines of the image are read once.
  ParallelFor(team, call.count * call.per_side, [&](int, std::int64_t piece) {
    const float* image = call.images[piece / call.per_side];
    const std::int64_t top = piece % call.per_side * p;
    for (std::int64_t channel = 0; channel < call.channels; ++channel) {
      for (std::int64_t dy = 0; dy < p; ++dy) {
        const float* from = image + (channel * call.image_size + top + dy) * call.image_size;
        float* patch = to + piece * call.per_side * width + (channel * p + dy) * p;
        for (std::int64_t x = 0; x < call.per_side; ++x, from += p, patch += width) {
          std::copy_n(from, p, patch);
        }
      }
    }
  });
}

}  // namespace siglip
