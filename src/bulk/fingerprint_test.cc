#include "bulk/fingerprint.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

namespace siglip::bulk {
namespace {

TEST(FingerprintTest, ACheckpointsFilesMatterOthersDoNot) {
  const std::string folder = testing::TempDir() + "fingerprint_test";
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/config.json") << "{}";
  std::ofstream(folder + "/model.safetensors") << std::string(3 << 20, 'w');
  const auto before = CheckpointFingerprint(folder);
  ASSERT_TRUE(before.ok());
  std::ofstream(folder + "/README.md") << "x";
  EXPECT_EQ(*CheckpointFingerprint(folder), *before);
  std::ofstream(folder + "/model.safetensors") << std::string((3 << 20) - 1, 'w') << 'x';
  const auto other_weights = CheckpointFingerprint(folder);
  EXPECT_NE(*other_weights, *before);
  std::ofstream(folder + "/config.json") << "[]";
  EXPECT_NE(*CheckpointFingerprint(folder), *other_weights);
  std::filesystem::remove_all(folder);
  EXPECT_EQ(CheckpointFingerprint(folder).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace siglip::bulk
