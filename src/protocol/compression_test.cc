#include "protocol/compression.h"

#include <gtest/gtest.h>

namespace siglip {
namespace {

std::string Text(std::size_t size) {
  std::string text;
  while (text.size() < size) text += "embedding " + std::to_string(text.size());
  text.resize(size);
  return text;
}

TEST(Compression, RoundTripsInBothFormats) {
  for (const Encoding encoding : {Encoding::kGzip, Encoding::kDeflate}) {
    for (const std::size_t size : {0UL, 1UL, 70000UL, 1000000UL}) {
      const std::string text = Text(size);
      const std::string_view parts[] = {std::string_view(text).substr(0, size / 3),
                                        std::string_view(text).substr(size / 3)};
      const std::string packed = Compress(parts, encoding);
      ASSERT_FALSE(packed.empty());
      const auto body = Decompress(packed, size);
      ASSERT_TRUE(body.ok()) << body.status();
      EXPECT_EQ((*body)->view(), text);
    }
  }
}

TEST(Compression, DeflateIsZlibFormat) {
  const std::string_view parts[] = {"x"};
  EXPECT_EQ(Compress(parts, Encoding::kDeflate)[0], '\x78');
}

TEST(Compression, LimitBitesAtTheByte) {
  const std::string text(100000, 'a');
  const std::string_view parts[] = {text};
  const std::string bomb = Compress(parts, Encoding::kGzip);
  EXPECT_TRUE(Decompress(bomb, 100000).ok());
  const auto refused = Decompress(bomb, 99999);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(refused.status().message().find("http-max-input-size"), std::string_view::npos);
}

TEST(Compression, EveryTruncationAndTrailingBytesAreRefused) {
  const std::string text = Text(2000);
  const std::string_view parts[] = {text};
  const std::string packed = Compress(parts, Encoding::kGzip);
  for (std::size_t n = 0; n < packed.size(); ++n) {
    EXPECT_FALSE(Decompress(std::string_view(packed).substr(0, n), 1 << 20).ok()) << n;
  }
  EXPECT_FALSE(Decompress(packed + "x", 1 << 20).ok());
  EXPECT_FALSE(Decompress("not compressed at all", 1 << 20).ok());
}

TEST(Compression, HeadersAreReadAsTritonDoes) {
  EXPECT_EQ(*ParseContentEncoding("GZIP"), Encoding::kGzip);
  EXPECT_EQ(*ParseContentEncoding("identity"), Encoding::kIdentity);
  EXPECT_EQ(ParseContentEncoding("br").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ChooseEncoding(""), Encoding::kIdentity);
  EXPECT_EQ(ChooseEncoding("gzip, deflate"), Encoding::kGzip);
  EXPECT_EQ(ChooseEncoding("gzip;q=0.3, deflate;q=0.8, br"), Encoding::kDeflate);
  EXPECT_EQ(ChooseEncoding("gzip;q=0, identity;q=0.5"), Encoding::kIdentity);
  EXPECT_EQ(ChooseEncoding("gzip;q=x"), Encoding::kIdentity);
}

}  // namespace
}  // namespace siglip
