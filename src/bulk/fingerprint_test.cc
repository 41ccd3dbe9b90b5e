#include "bulk/fingerprint.h"

#include <filesystem>
#include <fstream>
#include <set>
#include <string>

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

TEST(FingerprintTest, EveryByteOfTheWeightsMatters) {
  const std::string folder = testing::TempDir() + "fingerprint_weights_test";
  std::filesystem::create_directories(folder);
  const std::string weights(5 << 20, 'w');
  std::set<std::string> seen;
  // Each within what a small tensor, a bias or a scale, takes up.
  for (const std::size_t place : {0u, (1u << 20) + 5000u, (2u << 20) + 3u, (5u << 20) - 1u}) {
    std::string changed = weights;
    changed[place] = 'x';
    std::ofstream(folder + "/model.safetensors") << changed;
    seen.insert(*CheckpointFingerprint(folder));
  }
  std::ofstream(folder + "/model.safetensors") << weights;
  seen.insert(*CheckpointFingerprint(folder));
  EXPECT_EQ(seen.size(), 5u);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace siglip::bulk
