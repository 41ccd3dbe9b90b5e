#include "protocol/json_input.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>

#include "protocol/padded_body.h"

namespace siglip {
namespace {

TEST(ValidateJson, DepthLimitIsAHundred) {
  const auto nested = [](std::size_t n) {
    return PaddedBody(std::string(n, '[') + std::string(n, ']'));
  };
  EXPECT_TRUE(ValidateJson(nested(100).view()).ok());
  EXPECT_FALSE(ValidateJson(nested(101).view()).ok());
  EXPECT_FALSE(ValidateJson(nested(1000000).view()).ok());
  EXPECT_FALSE(ValidateJson(PaddedBody(std::string(1000000, '[')).view()).ok());
}

TEST(ValidateJson, BytesBehindTheTextAreNotRead) {
  const PaddedBody body("[12]345]");
  EXPECT_TRUE(ValidateJson(body.view().substr(0, 4)).ok());
  EXPECT_FALSE(ValidateJson(body.view().substr(0, 3)).ok());
}

// y_ must be accepted, n_ refused, i_ either; none may crash.
TEST(ValidateJson, AgreesWithTheParserTestSuite) {
  const char* corpora = std::getenv("SIGLIP_CORPORA");
  if (corpora == nullptr) GTEST_SKIP() << "SIGLIP_TEST_SKIPPED: SIGLIP_CORPORA is not set\n";
  int cases = 0;
  for (const auto& file : std::filesystem::directory_iterator(std::string(corpora) + "/json")) {
    std::ifstream in(file.path(), std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    const PaddedBody body(text.str());
    const absl::Status status = ValidateJson(body.view());
    const std::string name = file.path().filename();
    if (name[0] == 'y') {
      EXPECT_TRUE(status.ok()) << name << ": " << status;
    }
    if (name[0] == 'n') {
      EXPECT_FALSE(status.ok()) << name;
    }
    ++cases;
  }
  EXPECT_GT(cases, 300);
}

}  // namespace
}  // namespace siglip
