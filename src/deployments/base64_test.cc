#include "deployments/base64.h"

#include <gtest/gtest.h>

namespace siglip {
namespace {

// Each pair was answered so by Python 3.11's base64.b64decode.
TEST(Base64Test, DecodesAsPythonDoes) {
  const std::pair<const char*, const char*> cases[] = {{"", ""},
                                                       {"YQ==", "a"},
                                                       {"YWI=", "ab"},
                                                       {"YWJj", "abc"},
                                                       {"YW\nJj", "abc"},
                                                       {" Y W J j \r\n", "abc"},
                                                       {"Y!W@J#j", "abc"},
                                                       {"YWJjZGVm", "abcdef"},
                                                       {"YQ==YQ==", "a"},
                                                       {"YQ==trailing", "a"},
                                                       {"=YWJj", "abc"},
                                                       {"Y=WJj", "abc"},
                                                       {"YQ=\n=", "a"},
                                                       {"====", ""},
                                                       {"YWJjYWI=", "abcab"}};
  for (const auto& [text, bytes] : cases) {
    const auto decoded = DecodeBase64(text);
    ASSERT_TRUE(decoded.ok()) << text << ": " << decoded.status();
    EXPECT_EQ(*decoded, bytes) << text;
  }
}

TEST(Base64Test, WrongPaddingIsRefused) {
  for (const char* text : {"YQ", "YQ=", "YWI", "Y", "YWJjZ", "Y===", "YWJjY==="}) {
    EXPECT_EQ(DecodeBase64(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(Base64Test, AllBytesComeThrough) {
  EXPECT_EQ(*DecodeBase64("AP+A/g=="), std::string("\x00\xff\x80\xfe", 4));
}

}  // namespace
}  // namespace siglip
