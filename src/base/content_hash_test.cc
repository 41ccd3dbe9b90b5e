#include "base/content_hash.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>
#include <vector>

namespace siglip {
namespace {

std::vector<std::byte> RandomBytes(std::size_t count) {
  std::mt19937 random(7);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

TEST(ContentHashTest, EveryFlippedBitChangesIt) {
  std::vector<std::byte> bytes = RandomBytes(331);
  std::set<std::uint64_t> seen = {ContentHash(bytes)};
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_TRUE(seen.insert(ContentHash(bytes)).second) << "bit " << bit;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
  }
}

TEST(ContentHashTest, LengthSeedAndPlaceCountAlignmentDoesNot) {
  const std::vector<std::byte> zeros(300);
  std::set<std::uint64_t> seen;
  for (std::size_t length = 0; length <= zeros.size(); ++length) {
    EXPECT_TRUE(seen.insert(ContentHash(std::span(zeros).first(length))).second) << length;
  }
  EXPECT_TRUE(seen.insert(ContentHash(zeros, 1)).second);
  for (std::size_t place = 0; place < zeros.size(); ++place) {
    std::vector<std::byte> bytes = zeros;
    bytes[place] = std::byte{1};
    EXPECT_TRUE(seen.insert(ContentHash(bytes)).second) << place;
  }
  const std::vector<std::byte> bytes = RandomBytes(200);
  std::vector<std::byte> moved(bytes.size() + 3);
  std::memcpy(moved.data() + 3, bytes.data(), bytes.size());
  EXPECT_EQ(ContentHash(std::span(moved).subspan(3)), ContentHash(bytes));
}

}  // namespace
}  // namespace siglip
