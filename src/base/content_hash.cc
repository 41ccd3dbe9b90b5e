#include "base/content_hash.h"

#include <cstring>

namespace siglip {
namespace {

// A step waits some 6 cycles for the one before; eight side by side keep the multiplier busy.
constexpr std::size_t kLanes = 8;
constexpr std::size_t kStripeBytes = kLanes * sizeof(std::uint64_t);
// 2^64 / golden ratio: odd, hence a bijection, with well spread bits.
constexpr std::uint64_t kMultiplier = 0x9e3779b97f4a7c15;

std::uint64_t Step(std::uint64_t state, std::uint64_t word) {
  const std::uint64_t product = (state ^ word) * kMultiplier;
  return product ^ product >> 32;
}

}  // namespace

std::uint64_t ContentHash(std::span<const std::byte> bytes, std::uint64_t seed) {
  std::uint64_t lanes[kLanes];
  for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = Step(seed, i + 1);
  std::uint64_t words[kLanes];
  std::size_t done = 0;
  for (; bytes.size() - done >= kStripeBytes; done += kStripeBytes) {
    std::memcpy(words, bytes.data() + done, kStripeBytes);
    for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = Step(lanes[i], words[i]);
  }
  // The rest, padded with zeros: the length below tells them from zeros that are content.
  if (done < bytes.size()) {
    std::memset(words, 0, sizeof(words));
    std::memcpy(words, bytes.data() + done, bytes.size() - done);
    for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = Step(lanes[i], words[i]);
  }
  std::uint64_t result = Step(seed, bytes.size());
  for (const std::uint64_t lane : lanes) result = Step(result, lane);
  return Step(Step(result, 0), 0);  // the last lane's high bits, too, reach all bits
}

}  // namespace siglip
