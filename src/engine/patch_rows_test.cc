#include "engine/patch_rows.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"

namespace siglip {
namespace {

TEST(PatchRowsTest, RowsArePatchesAndPixelsPastTheGridAreNotRead) {
  constexpr std::int64_t kSide = 17, kPatch = 5, kPerSide = 3, kChannels = 3;
  constexpr std::int64_t kPixels = kChannels * kSide * kSide;
  std::vector<float> first(kPixels);
  std::vector<float> second(kPixels);
  std::iota(first.begin(), first.end(), 0.0f);
  std::iota(second.begin(), second.end(), 1000.0f);
  for (std::int64_t i = 0; i < kPixels; ++i) {
    if (i % kSide >= 15 || i / kSide % kSide >= 15) first[i] = second[i] = NAN;
  }
  const float* images[] = {first.data(), second.data()};
  std::vector<float> rows(2 * kPerSide * kPerSide * kChannels * kPatch * kPatch, -1.0f);
  ThreadTeam team(2);
  GatherPatches(team, {images, 2, kChannels, kSide, kPatch, kPerSide}, rows.data());
  std::size_t at = 0;
  for (const float* image : images) {
    for (std::int64_t patch = 0; patch < kPerSide * kPerSide; ++patch) {
      for (std::int64_t i = 0; i < kChannels * kPatch * kPatch; ++i, ++at) {
        const std::int64_t channel = i / (kPatch * kPatch);
        const std::int64_t y = patch / kPerSide * kPatch + i / kPatch % kPatch;
        const std::int64_t x = patch % kPerSide * kPatch + i % kPatch;
        ASSERT_EQ(rows[at], image[(channel * kSide + y) * kSide + x]) << at;
      }
    }
  }
}

}  // namespace
}  // namespace siglip
