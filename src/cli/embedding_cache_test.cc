#include "cli/embedding_cache.h"

#include <filesystem>
#include <fstream>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace siglip::cli {
namespace {

class EmbeddingCacheTest : public testing::Test {
 protected:
  EmbeddingCacheTest() : folder_(testing::TempDir() + "embedding_cache_test") {
    std::filesystem::remove_all(folder_);
  }
  ~EmbeddingCacheTest() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<EmbeddingCache> Open() {
    auto cache = EmbeddingCache::Open(folder_, "id", 3);
    EXPECT_TRUE(cache.ok()) << cache.status();
    return cache.ok() ? *std::move(cache) : nullptr;
  }
  std::vector<float> Find(const EmbeddingCache& cache, const std::string& key) {
    std::vector<float> row(3);
    if (!cache.Find(key, row)) row.clear();
    return row;
  }
  const std::string folder_;
  const std::string file_ = folder_ + "/id.embeddings";
};

TEST_F(EmbeddingCacheTest, KeepsWhatWasAddedAndTheLatestOfAKey) {
  {
    const auto cache = Open();
    ASSERT_TRUE(cache->Add("a", std::vector<float>{1, 2, 3}).ok());
    ASSERT_TRUE(cache->Add("b\nc", std::vector<float>{4, 5, 6}).ok());
    ASSERT_TRUE(cache->Add("a", std::vector<float>{7, 8, 9}).ok());
    EXPECT_EQ(Find(*cache, "a"), (std::vector<float>{7, 8, 9}));
  }
  const auto cache = Open();
  EXPECT_EQ(cache->size(), 2u);
  EXPECT_EQ(Find(*cache, "a"), (std::vector<float>{7, 8, 9}));
  EXPECT_EQ(Find(*cache, "b\nc"), (std::vector<float>{4, 5, 6}));
  EXPECT_TRUE(Find(*cache, "c").empty());
}

// Whatever prefix of the file a power loss leaves, and whichever byte it spoils, whole records and
// no others are believed, and the file can be added to.
TEST_F(EmbeddingCacheTest, ATornOrDamagedRecordIsLeftOut) {
  {
    const auto cache = Open();
    ASSERT_TRUE(cache->Add("a", std::vector<float>{1, 2, 3}).ok());
    ASSERT_TRUE(cache->Add("b", std::vector<float>{4, 5, 6}).ok());
  }
  std::string content;
  {
    std::ifstream file(file_, std::ios::binary);
    content.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  const std::size_t record = (content.size() - 16) / 2;
  const auto check = [&](const std::string& damaged, std::size_t want_records) {
    std::ofstream(file_, std::ios::binary | std::ios::trunc) << damaged;
    {
      const auto cache = Open();
      ASSERT_NE(cache, nullptr);
      EXPECT_EQ(cache->size(), want_records);
      ASSERT_TRUE(cache->Add("z", std::vector<float>{0, 0, 1}).ok());
    }
    EXPECT_EQ(Find(*Open(), "z"), (std::vector<float>{0, 0, 1}));
  };
  for (std::size_t bytes = 0; bytes < content.size(); ++bytes) {
    check(content.substr(0, bytes), bytes < 16 + record ? 0 : 1);
  }
  for (std::size_t i = 16; i < content.size(); ++i) {
    std::string damaged = content;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x55);
    check(damaged, 1);
    EXPECT_EQ(Find(*Open(), "b").empty(), i >= 16 + record) << i;
  }
  // A hole of zeros, as file systems leave them.
  std::string hole = content;
  hole.insert(16 + record, 100'000, '\0');
  check(hole, 2);
  check(content + std::string(100'000, '\0'), 2);
}

TEST_F(EmbeddingCacheTest, AForeignFileAndASecondProcessAreRefused) {
  std::filesystem::create_directories(folder_);
  std::ofstream(file_) << "somebody's precious notes";
  EXPECT_THAT(std::string(EmbeddingCache::Open(folder_, "id", 3).status().message()),
              testing::HasSubstr("expected a cache"));
  std::filesystem::remove(file_);
  const auto cache = Open();
  EXPECT_THAT(std::string(EmbeddingCache::Open(folder_, "id", 3).status().message()),
              testing::HasSubstr("another process"));
}

TEST_F(EmbeddingCacheTest, AKeyChangesWithSizeAndTime) {
  std::filesystem::create_directories(folder_);
  const std::string path = folder_ + "/x";
  EXPECT_EQ(FileKey(path), "");
  std::ofstream(path) << "1";
  const std::string first = FileKey(path);
  std::filesystem::last_write_time(
      path, std::filesystem::file_time_type::clock::now() + std::chrono::seconds(5));
  const std::string later = FileKey(path);
  std::ofstream(path) << "12";
  EXPECT_NE(first, "");
  EXPECT_NE(first, later);
  EXPECT_NE(later, FileKey(path));
}

}  // namespace
}  // namespace siglip::cli
