// The hostile images of the folder that SIGLIP_CORPORA names, against Pillow's recorded verdicts.

#include "base/file_map.h"
#include "image/preprocess.h"
#include "image/sha256_for_test.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace siglip {
namespace {

constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 28;

// Damaged files whose coefficients overflow libjpeg-turbo's vector code, which then depends on the
// processor; the verdicts were recorded on x86-64. See docs/numerics-image.md.
bool HasOtherPixelsOnArm(std::string_view name) {
#if defined(__aarch64__)
  constexpr std::string_view kNames[] = {
      "jpeg/11eca443ac99eb2d2f7b7dac62a4ecb58257b9b7-5",
      "jpeg/407f1b59fa0acefd1c22fd61c8e7126d75f91b4b-3",
      "jpeg/44395b2ac5d836cc3042fa51605df11214baf513-6",
      "jpeg/4bf9097b25424888aa462ecd4a81956ff7802d35-5",
      "jpeg/4c4af0a531dfa9345e3f3f87b606672c1a924719-1",
      "jpeg/70c0e7d7d9b11d6913c622f37c56876d0b0e98ae-1",
      "jpeg/775d8954c51b5df639980865cb71f93642f71e2e-8",
      "jpeg/9d56da45ceaf343eda90609b3f83907bae1febe5-1",
      "jpeg/a4fd722086db414a70cb6e65bf70462afe2b30a4-2",
      "jpeg/bdcad0fb2ad6440af823f8f0df6f5fa36e9e23e5-8",
      "jpeg/c1c019771f57a0e58cca1dbee4b2ef39ba6ab576-5",
      "jpeg/cedd35db3d4db0487f38d9355ef92247afda099b-1",
      "jpeg/d3df4467072ae7a52cf12035f087e880880bc7ba-1",
      "jpeg/f17baa0efdb0086b89ef92439debe0c03dc3ec90-2",
      "jpeg/f20a9c814489840c2b51769b381a5e83776fad3c-6",
      "jpeg/ff4a5cd05efdc19ab7e6fc43d01f2fb68699fdd2-1",
  };
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
#else
  static_cast<void>(name);
  return false;
#endif
}

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
    if (HasOtherPixelsOnArm(name)) {
      EXPECT_NE(Sha256Hex(image->pixels.data(), image->pixels.size()), verdict["rgb"]) << name;
      continue;
    }
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
