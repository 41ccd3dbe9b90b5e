#include "cli/input_flags.h"

#include <filesystem>

#include <gtest/gtest.h>

namespace siglip::cli {
namespace {

TEST(ParseShardTest, CountsFromOne) {
  const auto shard = ParseShard("3/16");
  ASSERT_TRUE(shard.ok());
  EXPECT_EQ(shard->index, 2u);
  EXPECT_EQ(shard->count, 16u);
  for (const char* bad : {"", "3", "0/2", "3/2", "a/2", "1/2/3", "-1/2", "1/0"}) {
    EXPECT_EQ(ParseShard(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(ListItemsTest, AFolderWithoutImagesIsNamed) {
  const std::string folder = testing::TempDir() + "input_flags_test";
  std::filesystem::create_directories(folder);
  InputFlags flags;
  flags.paths = {folder};
  const auto items = ListItems(flags);
  std::filesystem::remove_all(folder);
  EXPECT_EQ(items.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(items.status().message().find(folder), std::string::npos);
}

}  // namespace
}  // namespace siglip::cli
