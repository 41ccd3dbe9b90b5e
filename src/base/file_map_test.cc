#include "base/file_map.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>

namespace siglip {
namespace {

class FileMapTest : public testing::Test {
 protected:
  std::string Path(const std::string& name) { return testing::TempDir() + "file_map_test_" + name; }
};

TEST_F(FileMapTest, MapAndReadGiveWhatWasWritten) {
  const std::string path = Path("a");
  ASSERT_TRUE(WriteFileAtomically(path, "hello").ok());
  auto map = FileMap::Open(path);
  ASSERT_TRUE(map.ok()) << map.status();
  ASSERT_EQ(map->bytes().size(), 5u);
  EXPECT_EQ(std::memcmp(map->bytes().data(), "hello", 5), 0);
  EXPECT_EQ(ReadFile(path, 5).value(), "hello");
  EXPECT_EQ(ReadFile(path, 4).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(FileMapTest, IdentityTellsAnotherFileAndAnotherState) {
  const std::string path = Path("identity");
  ASSERT_TRUE(WriteFileAtomically(path, "hello").ok());
  const auto map = FileMap::Open(path);
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_EQ(map->identity(), IdentifyFile(path).value());
  EXPECT_EQ(map->identity().bytes, 5u);
  ASSERT_TRUE(WriteFileAtomically(path, "hallo").ok());
  EXPECT_NE(map->identity(), IdentifyFile(path).value());
  EXPECT_EQ(IdentifyFile(Path("none")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(FileMapTest, ALinkToNothingIsAnEntryAndSaysWhereItLeads) {
  const std::string link = Path("dangling");
  ::unlink(link.c_str());
  EXPECT_FALSE(HasEntry(link));
  EXPECT_FALSE(HasEntry(link + "/below"));
  ASSERT_EQ(::symlink("../blobs/none", link.c_str()), 0);
  EXPECT_TRUE(HasEntry(link));
  for (const absl::Status& status :
       {FileMap::Open(link).status(), ReadFile(link, 1).status(), CheckInputFile(link)}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_NE(status.message().find("it is a link to '../blobs/none', which is not there"),
              absl::string_view::npos)
        << status;
  }
}

TEST_F(FileMapTest, AGitLfsPointerIsNotTheFileThatItStandsFor) {
  const std::string path = Path("pointer");
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, 'a') +
      "\nsize 3511950624\n";
  ASSERT_TRUE(WriteFileAtomically(path, pointer).ok());
  for (const absl::Status& status :
       {FileMap::Open(path).status(), ReadFile(path, 1024).status(), CheckInputFile(path)}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_NE(status.message().find("pointer': a pointer of Git LFS"), absl::string_view::npos)
        << status;
    EXPECT_NE(status.message().find("`git lfs pull`"), absl::string_view::npos) << status;
  }
  // Longer than any pointer: a file that begins so.
  ASSERT_TRUE(WriteFileAtomically(path, pointer + std::string(1024, ' ')).ok());
  EXPECT_TRUE(FileMap::Open(path).ok());
  EXPECT_TRUE(ReadFile(path, 2048).ok());
  EXPECT_TRUE(CheckInputFile(path).ok());
}

TEST_F(FileMapTest, DroppedPagesAreReadAgain) {
  const std::string path = Path("dropped");
  const std::string content(100'000, 'x');
  ASSERT_TRUE(WriteFileAtomically(path, content).ok());
  const auto map = FileMap::Open(path);
  ASSERT_TRUE(map.ok()) << map.status();
  for (const auto& [first, count] :
       {std::pair<std::size_t, std::size_t>{0, 100'000}, {5, 3}, {5000, 50'000}, {0, 0}}) {
    DropPages(map->bytes().subspan(first, count));
    EXPECT_EQ(std::memcmp(map->bytes().data(), content.data(), content.size()), 0);
  }
}

TEST_F(FileMapTest, AnOutputIsMadeBehindItsSymlinks) {
  const std::string file = Path("behind"), link = Path("link"), loop = Path("loop");
  for (const std::string& path : {file, link, link + "2", loop}) ::unlink(path.c_str());
  ASSERT_EQ(::symlink("file_map_test_behind", link.c_str()), 0);
  ASSERT_EQ(::symlink(link.c_str(), (link + "2").c_str()), 0);
  ASSERT_EQ(::symlink(loop.c_str(), loop.c_str()), 0);
  EXPECT_EQ(ReplaceablePath(link + "2"), file);  // which is not there yet
  EXPECT_EQ(ReplaceablePath(loop), loop);
  ASSERT_TRUE(WriteOutputFile(link + "2", "hello").ok());
  EXPECT_EQ(ReadFile(file, 5).value_or(""), "hello");
  EXPECT_EQ(ReplaceablePath(link + "2"), std::filesystem::canonical(file).string());
  ASSERT_TRUE(WriteOutputFile(link + "2", "hallo").ok());
  EXPECT_EQ(ReadFile(file, 5).value_or(""), "hallo");
}

TEST_F(FileMapTest, AnOutputIsLookedAtWithoutAChange) {
  const std::string folder = Path("look");
  std::filesystem::remove_all(folder);
  std::filesystem::create_directory(folder);
  ASSERT_TRUE(WriteFileAtomically(folder + "/old", "kept").ok());
  ASSERT_EQ(::mkfifo((folder + "/pipe").c_str(), 0600), 0);
  for (const char* name : {"/old", "/new", "/pipe"}) {
    EXPECT_TRUE(CheckOutputFile(folder + name).ok()) << name;
  }
  EXPECT_TRUE(CheckOutputFile("/dev/null").ok());
  for (const std::string& wrong : {folder, folder + "/none/x", std::string("/proc/nope")}) {
    const absl::Status status = CheckOutputFile(wrong);
    EXPECT_NE(status.message().find(wrong), std::string::npos) << wrong << ": " << status;
  }
  EXPECT_EQ(ReadFile(folder + "/old", 10).value_or(""), "kept");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 2);
  std::filesystem::remove_all(folder);
}

TEST_F(FileMapTest, ACopyIsWholeOrNotThere) {
  const std::string content(200'000, 'x');
  const std::string from = Path("from"), to = Path("to");
  ASSERT_TRUE(WriteFileAtomically(from, content).ok());
  ASSERT_TRUE(CopyFileAtomically(from, to).ok());
  EXPECT_EQ(ReadFile(to, 1 << 20).value_or(""), content);
  EXPECT_FALSE(CopyFileAtomically("/nonexistent", to).ok());
  EXPECT_EQ(ReadFile(to, 1 << 20).value_or(""), content);
}

TEST_F(FileMapTest, UnlinkedFileStaysReadable) {
  const std::string path = Path("b");
  ASSERT_TRUE(WriteFileAtomically(path, "x").ok());
  auto map = FileMap::Open(path);
  ASSERT_TRUE(map.ok());
  ASSERT_EQ(::unlink(path.c_str()), 0);
  EXPECT_EQ(map->bytes()[0], std::byte{'x'});
}

TEST_F(FileMapTest, EmptyFileHasNoBytes) {
  const std::string path = Path("c");
  ASSERT_TRUE(WriteFileAtomically(path, "").ok());
  auto map = FileMap::Open(path);
  ASSERT_TRUE(map.ok());
  EXPECT_TRUE(map->bytes().empty());
}

TEST_F(FileMapTest, MissingFileAndFolderAreNamedErrors) {
  const auto missing = FileMap::Open("/nonexistent/x");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(missing.status().message().find("/nonexistent/x"), std::string::npos);
  EXPECT_FALSE(FileMap::Open("/").ok());
  EXPECT_FALSE(ReadFile("/", 10).ok());
}

}  // namespace
}  // namespace siglip
