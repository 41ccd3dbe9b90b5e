#include "cli/embedding_writer.h"

#include <cmath>
#include <filesystem>
#include <limits>

#include <gtest/gtest.h>

#include "base/file_map.h"

namespace siglip::cli {
namespace {

constexpr std::uint64_t kMaxBytes = 1 << 20;

std::string Contents(const std::string& path) {
  auto text = ReadFile(path, kMaxBytes);
  return text.ok() ? *text : std::string(text.status().message());
}

TEST(EmbeddingWriterTest, NpyHoldsHeaderRowsAndNames) {
  const std::string path = testing::TempDir() + "embedding_writer_test.npy";
  std::filesystem::remove(path);  // of an earlier run
  auto writer = EmbeddingWriter::Create(path, 2);
  ASSERT_TRUE(writer.ok());
  const std::vector<float> row = {1.5f, -2};
  ASSERT_TRUE((*writer)->Write({RowName::Kind::kImage, "a\nb.jpg"}, row).ok());
  ASSERT_TRUE((*writer)->Write({RowName::Kind::kText, "x"}, row).ok());
  EXPECT_FALSE(std::filesystem::exists(path)) << "appears only when it is complete";
  ASSERT_TRUE((*writer)->Finish().ok());
  const std::string file = Contents(path);
  ASSERT_EQ(file.size(), 128u + 16u);
  EXPECT_EQ(file.substr(0, 128), NpyHeader(2, 2));
  EXPECT_NE(file.find("'shape': (2, 2), }"), std::string::npos);
  EXPECT_EQ(file.substr(128, 4), std::string("\0\0\xc0\x3f", 4));
  EXPECT_EQ(Contents(path + ".names.txt"), "\"a\\nb.jpg\"\n\"x\"\n");
}

TEST(EmbeddingWriterTest, JsonlSaysWhatEachRowIs) {
  const std::string path = testing::TempDir() + "embedding_writer_test.jsonl";
  auto writer = EmbeddingWriter::Create(path, 2);
  ASSERT_TRUE(writer.ok());
  const std::vector<float> row = {0.1f, 1};
  ASSERT_TRUE((*writer)->Write({RowName::Kind::kImage, "a.jpg"}, row).ok());
  ASSERT_TRUE((*writer)->Write({RowName::Kind::kText, "\"q\""}, row).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  EXPECT_EQ(Contents(path),
            "{\"image\":\"a.jpg\",\"embedding\":[0.1,1]}\n{\"text\":\"\\\"q\\\"\",\"embedding\":[0."
            "1,1]}\n");
}

TEST(EmbeddingWriterTest, UnknownExtensionIsRefused) {
  EXPECT_EQ(EmbeddingWriter::Create("a.csv", 2).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(EmbeddingWriterTest, FolderThatIsNotThereIsNamed) {
  const auto writer = EmbeddingWriter::Create("/nonexistent/a.npy", 2);
  ASSERT_FALSE(writer.ok());
  EXPECT_NE(writer.status().message().find("/nonexistent/a.npy"), std::string::npos);
}

TEST(EmbeddingWriterTest, FloatsReadBackExactlyAndNonFiniteIsNull) {
  std::string out;
  AppendJsonFloat(1.0f / 3, out);
  EXPECT_EQ(std::stof(out), 1.0f / 3);
  out.clear();
  AppendJsonFloat(std::numeric_limits<float>::quiet_NaN(), out);
  EXPECT_EQ(out, "null");
}

TEST(EmbeddingWriterTest, BrokenUtf8InANameStaysValidJson) {
  EXPECT_EQ(JsonString("a\xff"), "\"a\xEF\xBF\xBD\"");
}

}  // namespace
}  // namespace siglip::cli
