#include "cli/index_file.h"

#include <cmath>
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "bulk/output.h"

namespace siglip::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class IndexFileTest : public testing::Test {
 protected:
  IndexFileTest() : folder_(testing::TempDir() + "index_file_test/") {
    fs::remove_all(folder_);
    fs::create_directories(folder_ + "rows");
    WriteRows(100, 0);
  }
  ~IndexFileTest() override { fs::remove_all(folder_); }

  void WriteRows(int count, float offset) {
    fs::remove_all(folder_ + "rows");
    fs::create_directories(folder_ + "rows");
    auto output = bulk::Output::Open(
        {.path = rows_path(), .failures_path = "", .width = 2},
        {{"dtype", "float32"}, {"embedding_size", 2}, {"checkpoint_sha256", "abc"}}, {});
    ASSERT_TRUE(output.ok()) << output.status();
    for (int i = 0; i < count; ++i) {
      const float angle = static_cast<float>(i) * 0.01f + offset;
      const std::vector<float> row = {std::cos(angle), std::sin(angle)};
      ASSERT_TRUE((*output)->AddRow(bulk::Item::Kind::kImage, absl::StrCat(i), row).ok());
    }
    ASSERT_TRUE((*output)->Finish().ok());
  }

  absl::Status WriteIndex(const std::string& path) {
    auto rows = bulk::EmbeddedRows::Open(rows_path());
    if (!rows.ok()) return rows.status();
    ThreadTeam team(1);
    auto graph = NeighborGraph::Build(StoredRowsOf(**rows), {}, team, [](std::int64_t) {});
    if (!graph.ok()) return graph.status();
    return WriteIndexFile(path, rows_path(), **rows, **graph);
  }

  absl::Status Error(const std::string& content) {
    EXPECT_TRUE(WriteFileAtomically(folder_ + "damaged.index", content).ok());
    return OpenIndexFile(folder_ + "damaged.index").status();
  }

  // As somebody would write it who wants to be believed.
  static std::string Signed(std::string content) {
    Sha256 hash;
    hash.Add(content);
    const Sha256Digest digest = hash.Digest();
    return content.append(reinterpret_cast<const char*>(digest.data()), digest.size());
  }

  std::string rows_path() const { return folder_ + "rows/a.npy"; }
  const std::string folder_;
};

TEST_F(IndexFileTest, OpensWithItsRowsAndMovesWithThem) {
  ASSERT_TRUE(WriteIndex(folder_ + "a.index").ok());
  const auto check = [](const std::string& path) {
    const auto index = OpenIndexFile(path);
    ASSERT_TRUE(index.ok()) << index.status();
    EXPECT_EQ(index->rows->rows(), 100);
    const std::vector<float> query = {1, 0};
    EXPECT_THAT(*index->graph->Candidates(query, 3), testing::ElementsAre(0, 1, 2));
  };
  check(folder_ + "a.index");
  const std::string moved = folder_ + "moved/";
  fs::create_directories(moved);
  fs::rename(folder_ + "a.index", moved + "a.index");
  EXPECT_THAT(std::string(OpenIndexFile(moved + "a.index").status().message()),
              HasSubstr("the rows that it is an index of"));
  fs::rename(folder_ + "rows", moved + "rows");
  check(moved + "a.index");
}

TEST_F(IndexFileTest, ASymlinkToItIsReadAndWrittenAsTheFileBehindIt) {
  fs::create_directories(folder_ + "links/deep");
  const std::string link = folder_ + "links/deep/b.index";
  ASSERT_TRUE(WriteIndex(folder_ + "a.index").ok());
  fs::create_symlink("../../a.index", link);
  EXPECT_TRUE(OpenIndexFile(link).ok()) << OpenIndexFile(link).status();
  ASSERT_TRUE(WriteIndex(link).ok());
  EXPECT_TRUE(fs::is_symlink(link));
  for (const std::string& path : {link, folder_ + "a.index"}) {
    EXPECT_TRUE(OpenIndexFile(path).ok()) << OpenIndexFile(path).status();
  }
  // Earlier versions wrote what is seen from the link's folder.
  fs::create_directories(folder_ + "links/far");
  fs::rename(folder_ + "rows", folder_ + "links/rows");
  fs::rename(folder_ + "a.index", folder_ + "links/far/a.index");
  fs::remove(link);
  fs::create_symlink("deep/../far/a.index", folder_ + "links/b.index");
  EXPECT_TRUE(OpenIndexFile(folder_ + "links/b.index").ok());
}

TEST_F(IndexFileTest, OtherRowsThanItsOwnAreRefused) {
  ASSERT_TRUE(WriteIndex(folder_ + "a.index").ok());
  for (const int count : {100, 101}) {
    WriteRows(count, 0.5f);
    const absl::Status status = OpenIndexFile(folder_ + "a.index").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("has changed since"));
  }
}

TEST_F(IndexFileTest, EveryDamagedByteIsSeen) {
  ASSERT_TRUE(WriteIndex(folder_ + "a.index").ok());
  const std::string content = *ReadFile(folder_ + "a.index", 1 << 20);
  EXPECT_TRUE(Error(content).ok());
  for (std::size_t at = 0; at < content.size(); at += at < 300 ? 7 : 211) {
    std::string damaged = content;
    damaged[at] ^= 0x10;
    EXPECT_FALSE(Error(damaged).ok()) << at;
    EXPECT_FALSE(Error(content.substr(0, at)).ok()) << at;
  }
  EXPECT_FALSE(Error(content + "x").ok());
}

TEST_F(IndexFileTest, ARightHashMakesNothingBelieved) {
  ASSERT_TRUE(WriteIndex(folder_ + "a.index").ok());
  std::string content = *ReadFile(folder_ + "a.index", 1 << 20);
  content.resize(content.size() - 32);
  ASSERT_TRUE(Error(Signed(content)).ok());
  const std::size_t graph = content.find('\n', content.find('\n') + 1) + 1;
  EXPECT_EQ(Error(Signed(content.substr(0, graph + 4))).code(), absl::StatusCode::kDataLoss);
  for (std::size_t at = graph; at < content.size(); at += 173) {
    std::string damaged = content;
    damaged[at] = static_cast<char>(0xff);
    (void)Error(Signed(damaged));  // refused, or harmless: the sanitizers watch
  }
  for (const char* head :
       {"", "siglip index 2\n", "siglip index 2\n\n", "siglip index 2\n[]\n",
        "siglip index "
        "2\n{\"rows\":\"a\",\"rows_sha256\":\"b\",\"images\":-1,\"embedding_size\":2}\n",
        "siglip index 2\n{\"rows\":7}\n", "siglip index 3\n", "\x93NUMPY"}) {
    EXPECT_FALSE(Error(Signed(head)).ok()) << head;
    EXPECT_FALSE(Error(head).ok()) << head;
  }
  EXPECT_THAT(Error("siglip index 1\n").message(), HasSubstr("make it again"));
}

}  // namespace
}  // namespace siglip::cli
