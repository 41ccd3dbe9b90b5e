#include "text/canonicalize.h"

#include <gtest/gtest.h>

#include "text/utf8.h"

namespace siglip {
namespace {

std::string Lower(std::string_view text) { return EncodeUtf8(LowerCase(*DecodeUtf8(text))); }
std::string Canonical(std::string_view text) {
  return EncodeUtf8(Canonicalize(*DecodeUtf8(text), true));
}

TEST(LowerCaseTest, FollowsPythonsTables) {
  EXPECT_EQ(Lower("AZaz09"), "azaz09");
  EXPECT_EQ(Lower("ÀÉ×Þ÷"), "àé×þ÷");
  EXPECT_EQ(Lower("ẞ"), "ß");
  EXPECT_EQ(Lower("\u212A"), "k");
  EXPECT_EQ(Lower("ǅ"), "ǆ");
  EXPECT_EQ(Lower("İ"), "i\u0307");
  EXPECT_EQ(Lower("ԲԱ"), "բա");
  EXPECT_EQ(Lower("Ა"), "ა");
  EXPECT_EQ(Lower("𐐔"), "𐐼");
  EXPECT_EQ(Lower("Ꭰ"), "ꭰ");
}

TEST(LowerCaseTest, SigmaIsFinalAtTheEndOfAWord) {
  EXPECT_EQ(Lower("ΑΣ"), "ας");
  EXPECT_EQ(Lower("Σ"), "σ");
  EXPECT_EQ(Lower("ΑΣ-Α"), "ας-α");
  EXPECT_EQ(Lower("ΑΣ.Α"), "ασ.α");  // the full stop is case-ignorable
  EXPECT_EQ(Lower("ΑΣ."), "ας.");
  EXPECT_EQ(Lower("Α\u0301Σ"), "α\u0301ς");
  EXPECT_EQ(Lower("ΣΣ"), "σς");
  EXPECT_EQ(Lower(" Σ"), " σ");
}

TEST(CanonicalizeTest, PunctuationGoesWithoutLeavingASpace) {
  EXPECT_EQ(Canonical("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"), "");
  EXPECT_EQ(Canonical("a-b"), "ab");
  EXPECT_EQ(Canonical("a - b"), "a b");
  EXPECT_EQ(Canonical("don't"), "dont");
  EXPECT_EQ(Canonical("don’t"), "don’t");
}

TEST(CanonicalizeTest, WhiteSpaceRunsBecomeOneSpaceAndTheEndsAreStripped) {
  EXPECT_EQ(Canonical(" \t a \n\u3000 b \u00a0"), "a b");
  EXPECT_EQ(Canonical("a\u200bb\ufeff"), "a\u200bb\ufeff");  // not white space to Python
  EXPECT_EQ(Canonical("! a !"), "a");
}

TEST(CanonicalizeTest, CaseIsKeptIfAsked) {
  EXPECT_EQ(EncodeUtf8(Canonicalize(U"A!  B", false)), "A B");
}

}  // namespace
}  // namespace siglip
