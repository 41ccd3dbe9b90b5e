#include "checkpoint/fingerprint.h"

#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include <gtest/gtest.h>

namespace siglip {
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

// An output written into the folder, or what a Hub snapshot holds besides, is no other checkpoint.
TEST(FingerprintTest, OnlyTheFilesThatAreLoadedMatter) {
  const std::string folder = testing::TempDir() + "fingerprint_files_test";
  std::filesystem::create_directories(folder);
  const auto write = [&folder](const char* name, const char* text) {
    std::ofstream(folder + "/" + name) << text;
    return CheckpointFingerprint(folder).value_or("none");
  };
  std::string before = write("model.safetensors", "weights");
  for (const char* stray : {"out.npy.meta.json", "generation_config.json", "vocab.json",
                            "other.safetensors", "other.model"}) {
    EXPECT_EQ(write(stray, "{}"), before) << stray;
  }
  for (const char* loaded :
       {"config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
        "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "spiece.model"}) {
    const std::string after = write(loaded, "{}");
    EXPECT_NE(after, before) << loaded;
    before = after;
  }
  // As long as model.safetensors is there, an index and its files are not looked at.
  const char* index = R"({"weight_map":{"a":"part1.safetensors","b":"part2.safetensors"}})";
  EXPECT_EQ(write("model.safetensors.index.json", index), before);
  EXPECT_EQ(write("part1.safetensors", "1"), before);
  EXPECT_EQ(write("part2.safetensors", "2"), before);
  std::filesystem::remove(folder + "/model.safetensors");
  const std::string parts = CheckpointFingerprint(folder).value_or("none");
  EXPECT_NE(parts, before);
  EXPECT_EQ(write("other.safetensors", "changed"), parts);
  EXPECT_NE(write("part2.safetensors", "3"), parts);
  std::filesystem::remove_all(folder);
}

// Rows and stopped jobs of earlier versions stay those of their checkpoint. The digest is that of
// the version that hashed every *.json, *.model and *.safetensors of these files.
TEST(FingerprintTest, ASnapshotKeepsItsFingerprint) {
  const std::string folder = testing::TempDir() + "fingerprint_kept_test";
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/config.json") << "{}";
  std::ofstream(folder + "/spiece.model") << "m";
  std::ofstream(folder + "/model.safetensors.index.json")
      << R"({"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}})";
  std::ofstream(folder + "/model-1.safetensors") << "1";
  std::ofstream(folder + "/model-2.safetensors") << "2";
  EXPECT_EQ(CheckpointFingerprint(folder).value_or("none"),
            "9728f3eb157eb3bbca262fd0e7726736cbebad5d4bfc41ccc7cd69f31a3a7eb3");
  std::filesystem::remove_all(folder);
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
}  // namespace siglip
