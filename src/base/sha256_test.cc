#include "base/sha256.h"

#include <gtest/gtest.h>

namespace siglip {
namespace {

TEST(Sha256, IsTheStandards) {  // FIPS 180-2, appendix B.1
  Sha256 hash;
  hash.Add("ab");
  hash.Add("c");
  EXPECT_EQ(hash.Hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256, FieldsDifferByWhereTheyEnd) {
  Sha256 one;
  one.AddField("a");
  one.AddField("b");
  Sha256 other;
  other.AddField("ab");
  other.AddField("");
  EXPECT_NE(one.Digest(), other.Digest());
}

}  // namespace
}  // namespace siglip
