#include "text/utf8.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siglip {
namespace {

using testing::HasSubstr;

TEST(Utf8Test, EveryCodePointSurvivesTheRoundTrip) {
  for (char32_t c = 0; c <= 0x10ffff; ++c) {
    if (c >= 0xd800 && c <= 0xdfff) continue;
    const std::u32string text(1, c);
    const auto decoded = DecodeUtf8(EncodeUtf8(text));
    ASSERT_TRUE(decoded.ok()) << static_cast<unsigned>(c);
    ASSERT_EQ(*decoded, text);
  }
}

TEST(Utf8Test, WhatIsNotUtf8IsRefusedWithItsOffset) {
  const std::pair<std::string, int> cases[] = {{"\x80", 0},
                                               {"ab\xff", 2},
                                               {"a\xc3", 1},
                                               {"\xc0\x80", 0},
                                               {"\xc1\xbf", 0},
                                               {"\xe0\x80\x80", 0},
                                               {"\xe0\x9f\xbf", 0},
                                               {"\xed\xa0\x80", 0},
                                               {"\xed\xbf\xbf", 0},
                                               {"\xf0\x8f\xbf\xbf", 0},
                                               {"\xf4\x90\x80\x80", 0},
                                               {"\xf5\x80\x80\x80", 0},
                                               {"\xe2\x82", 0},
                                               {"\xc3\xa9\xc3(", 2},
                                               {"\xf0\x9f\x90", 0},
                                               {std::string("\0\xfe", 2), 1}};
  for (const auto& [text, offset] : cases) {
    const auto decoded = DecodeUtf8(text);
    ASSERT_FALSE(decoded.ok()) << testing::PrintToString(text);
    EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(decoded.status().message()),
                HasSubstr("at offset " + std::to_string(offset)))
        << testing::PrintToString(text);
  }
}

}  // namespace
}  // namespace siglip
