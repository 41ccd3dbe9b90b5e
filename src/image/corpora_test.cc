// The hostile images of the folder that SIGLIP_CORPORA names, against Pillow's recorded verdicts.

#include "base/file_map.h"
#include "image/preprocess.h"
#include "image/sha256_for_test.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace siglip {
namespace {

constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 28;

TEST(Corpora, EveryImageHasPillowsVerdictAndPixels) {
  const char* folder = std::getenv("SIGLIP_CORPORA");
  if (folder == nullptr) GTEST_SKIP() << "SIGLIP_TEST_SKIPPED: SIGLIP_CORPORA is not set";
  const std::string root = folder;
  const auto text = ReadFile(root + "/verdicts.json", kMaxFileBytes);
  if (!text.ok()) GTEST_SKIP() << "SIGLIP_TEST_SKIPPED: no verdicts.json in SIGLIP_CORPORA";
  const nlohmann::json record = nlohmann::json::parse(*text);
  PreprocessOptions options;
  options.image_size = record["size"].get<int>();
  const Preprocessor preprocessor(options);

  int accepted = 0;
  for (const auto& [name, verdict] : record["files"].items()) {
    const auto bytes = ReadFile(root + "/images/" + name, kMaxFileBytes);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    const auto image = DecodeRgb(*bytes, kPillowMaxPixels);
    if (!verdict["ok"].get<bool>()) {
      EXPECT_FALSE(image.ok()) << name << ": Pillow says " << verdict["error"];
      continue;
    }
    ASSERT_TRUE(image.ok()) << name << ": " << image.status();
    EXPECT_EQ(Sha256Hex(image->pixels.data(), image->pixels.size()), verdict["rgb"]) << name;
    const auto resized = preprocessor.Resize(*image);
    ASSERT_TRUE(resized.ok()) << name;
    EXPECT_EQ(Sha256Hex(resized->pixels.data(), resized->pixels.size()), verdict["resized"])
        << name;
    ++accepted;
  }
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace siglip
