#include "cli/picture_index.h"

#include <cmath>
#include <filesystem>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "bulk/output.h"

namespace siglip::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class PictureIndexTest : public testing::Test {
 protected:
  PictureIndexTest()
      : folder_(testing::TempDir() + "picture_index_test/"), root_(folder_ + "root") {
    fs::remove_all(folder_);
    fs::create_directories(root_ + "/below");
    fs::create_directories(root_ + "er");  // begins like root
    for (const char* file :
         {"root/in.png", "root/below/deep.png", "outside.png", "rooter/beside.png"}) {
      EXPECT_TRUE(WriteFileAtomically(folder_ + file, file).ok());
    }
    fs::create_symlink(folder_ + "outside.png", root_ + "/leads_out.png");
    fs::create_symlink("below/deep.png", root_ + "/stays.png");
    fs::resize_file(Touch(root_ + "/huge.png"), (32u << 20) + 1);
  }
  ~PictureIndexTest() override { fs::remove_all(folder_); }

  static std::string Touch(const std::string& path) {
    EXPECT_TRUE(WriteFileAtomically(path, "").ok());
    return path;
  }

  std::unique_ptr<PictureIndex> IndexOf(const std::vector<std::string>& names) {
    const std::string path = folder_ + "index.npy";
    auto output = bulk::Output::Open(
        {.path = path, .failures_path = "", .width = 2},
        {{"dtype", "float32"}, {"embedding_size", 2}, {"checkpoint_sha256", "abc"}}, {});
    EXPECT_TRUE(output.ok()) << output.status();
    float x = 0;
    for (const std::string& name : names) {
      const std::vector<float> row = {x++, 1};
      EXPECT_TRUE((*output)->AddRow(bulk::Item::Kind::kImage, name, row).ok());
    }
    EXPECT_TRUE((*output)->Finish().ok());
    auto index = PictureIndex::Open(path, {.root = root_, .num_threads = 2});
    EXPECT_TRUE(index.ok()) << index.status();
    return *std::move(index);
  }

  const std::string folder_;
  const std::string root_;
};

TEST_F(PictureIndexTest, FindsTheNearestBestFirst) {
  const auto index = IndexOf({"a", "b", "c"});
  const std::vector<float> query = {2, 2};  // along row b
  const auto hits = index->Search(query, 2);
  ASSERT_TRUE(hits.ok()) << hits.status();
  ASSERT_EQ(hits->size(), 2u);
  EXPECT_EQ((*hits)[0].row, 1);
  EXPECT_NEAR((*hits)[0].score, 1, 1e-15);
  EXPECT_EQ((*hits)[1].row, 2);
  EXPECT_NEAR((*hits)[1].score, 3 / std::sqrt(10.0), 1e-15);
  EXPECT_EQ(index->Search(query, 100)->size(), 3u);
  const std::vector<float> nan = {0, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_EQ(index->Search(nan, 1).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(PictureIndexTest, ManyQueriesFindWhatEachFindsAlone) {
  const auto index = IndexOf(std::vector<std::string>(50, "a"));
  for (const int count : {0, 1, 3, 9}) {  // few and many take other ways through the rows
    std::vector<float> queries;
    for (int i = 0; i < count; ++i) queries.insert(queries.end(), {static_cast<float>(i), 0.3f});
    const auto each = index->SearchEach(queries, 7);
    ASSERT_TRUE(each.ok()) << each.status();
    ASSERT_EQ(each->size(), static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < each->size(); ++i) {
      const auto alone = index->Search(std::span(queries).subspan(2 * i, 2), 7);
      ASSERT_EQ((*each)[i].size(), 7u);
      for (std::size_t k = 0; k < 7; ++k) {
        EXPECT_EQ((*each)[i][k].row, (*alone)[k].row);
        EXPECT_EQ((*each)[i][k].score, (*alone)[k].score);
      }
    }
  }
}

TEST_F(PictureIndexTest, PicturesBelowTheRootAloneAreRead) {
  const auto index =
      IndexOf({"in.png", root_ + "/below/deep.png", "stays.png", "below/../in.png", "leads_out.png",
               "../outside.png", folder_ + "outside.png", "../rooter/beside.png", "/etc/passwd",
               "lost.png", "below", "", "huge.png"});
  EXPECT_EQ(index->ReadPicture(0).value_or(""), "root/in.png");
  EXPECT_EQ(index->ReadPicture(1).value_or(""), "root/below/deep.png");
  EXPECT_EQ(index->ReadPicture(2).value_or(""), "root/below/deep.png");
  EXPECT_EQ(index->ReadPicture(3).value_or(""), "root/in.png");
  for (std::int64_t row = 4; row < index->rows(); ++row) {
    EXPECT_FALSE(index->ReadPicture(row).ok()) << index->name(row);
  }
  EXPECT_THAT(std::string(index->ReadPicture(4).status().message()), HasSubstr("not below"));
}

TEST_F(PictureIndexTest, AnotherCheckpointAndALostRootAreRefused) {
  const auto index = IndexOf({"a"});
  const absl::Status other = index->CheckCheckpoint("models/demo");
  EXPECT_EQ(other.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(other.message()),
              HasSubstr("expected rows of the checkpoint models/demo"));
  EXPECT_FALSE(PictureIndex::Open(folder_ + "index.npy", {.root = folder_ + "nowhere"}).ok());
}

}  // namespace
}  // namespace siglip::cli
