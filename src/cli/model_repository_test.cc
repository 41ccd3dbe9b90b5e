#include "cli/model_repository.h"

#include <dirent.h>
#include <dlfcn.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

// Calls that still succeed; after them a listing fails, as one over a network may. -1: all succeed.
std::atomic<int> reads_left{-1};

}  // namespace

// In place of the C library's, for libstdc++ too.
extern "C" dirent* readdir(DIR* folder) {
  static auto* const real = reinterpret_cast<dirent* (*)(DIR*)>(::dlsym(RTLD_NEXT, "readdir"));
  if (reads_left == 0) {
    errno = EIO;
    return nullptr;
  }
  if (reads_left > 0) --reads_left;
  return real(folder);
}

namespace siglip::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class ModelRepositoryTest : public testing::Test {
 protected:
  ModelRepositoryTest() : repository_(testing::TempDir() + "model_repository_test") {
    std::filesystem::remove_all(repository_);
    std::filesystem::create_directories(repository_);
  }
  void AddModel(const std::string& name, const std::string& config,
                const std::string& version = "1") {
    std::filesystem::create_directories(repository_ + "/" + name + "/" + version);
    std::ofstream(repository_ + "/" + name + "/config.pbtxt") << config;
  }
  std::string Error() {
    const auto repository = FolderRepository::Open({repository_});
    if (!repository.ok()) return std::string(repository.status().message());
    const auto names = (*repository)->Names();
    if (!names.ok()) return std::string(names.status().message());
    for (const std::string& name : *names) {
      const auto config = (*repository)->Read(name);
      if (!config.ok()) return std::string(config.status().message());
    }
    return "read";
  }
  const std::string repository_;
};

TEST_F(ModelRepositoryTest, ModelsAreSortedAndNamedByTheirFolders) {
  AddModel("b", "backend: \"siglip\"", "3");
  AddModel("a", "name: \"a\" backend: \"siglip\"");
  std::filesystem::create_directories(repository_ + "/b/12");
  std::filesystem::create_directories(repository_ + "/b/007");
  std::filesystem::create_directories(repository_ + "/b/warmup");
  std::filesystem::create_directories(repository_ + "/notes");
  std::filesystem::create_symlink("nowhere", repository_ + "/dangling");
  std::filesystem::create_symlink("loop", repository_ + "/loop");
  const auto repository = FolderRepository::Open({repository_});
  ASSERT_TRUE(repository.ok()) << repository.status();
  EXPECT_THAT(*(*repository)->Names(), ElementsAre("a", "b"));
  const auto config = (*repository)->Read("b");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name, "b");
  EXPECT_THAT(config->versions, ElementsAre(3, 12));
  EXPECT_EQ(config->directory, repository_ + "/b");
}

TEST_F(ModelRepositoryTest, FollowsTheFolders) {
  AddModel("a", "backend: \"siglip\" max_batch_size: 3");
  const auto opened = FolderRepository::Open({repository_}, "small");
  ASSERT_TRUE(opened.ok()) << opened.status();
  const FolderRepository& repository = **opened;
  const std::uint64_t before = repository.Stamp("a");
  EXPECT_EQ(repository.Stamp("a"), before);
  AddModel("a", "backend: \"siglip\" max_batch_size: 14");
  EXPECT_NE(repository.Stamp("a"), before);
  EXPECT_EQ(repository.Read("a")->max_batch_size, 14);
  std::filesystem::create_directories(repository_ + "/a/configs");
  std::ofstream(repository_ + "/a/configs/small.pbtxt") << "backend: \"siglip\" max_batch_size: 2";
  EXPECT_EQ(repository.Read("a")->max_batch_size, 2);
  AddModel("b", "backend: \"siglip\"");
  EXPECT_THAT(*repository.Names(), ElementsAre("a", "b"));
  std::filesystem::remove_all(repository_ + "/a");
  EXPECT_THAT(*repository.Names(), ElementsAre("b"));
  EXPECT_EQ(repository.Read("a").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ModelRepositoryTest, NamesAreNoPaths) {
  AddModel("a", "backend: \"siglip\"");
  std::filesystem::create_directories(repository_ + "/a/1/c");
  std::ofstream(repository_ + "/a/1/c/config.pbtxt") << "backend: \"siglip\"";
  const auto repository = FolderRepository::Open({repository_});
  ASSERT_TRUE(repository.ok());
  for (const char* name : {"", ".", "..", "a/1/c", "../a", "a/", "/etc", "a/../a"}) {
    EXPECT_EQ((*repository)->Read(name).status().code(), absl::StatusCode::kNotFound) << name;
  }
}

TEST_F(ModelRepositoryTest, FoldersWhoseNamesNoModelMayHaveAreSkipped) {
  AddModel("a", "backend: \"siglip\"");
  for (const std::string name : {".hidden", "a b", "a\"b", "\xff", "g\xc3\xb6"}) {
    AddModel(name, "backend: \"siglip\"");
  }
  const auto repository = FolderRepository::Open({repository_});
  ASSERT_TRUE(repository.ok()) << repository.status();
  EXPECT_THAT(*(*repository)->Names(), ElementsAre("a"));
  EXPECT_EQ((*repository)->Read("a b").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ModelRepositoryTest, ANameInTwoRepositoriesIsAnError) {
  AddModel("a", "backend: \"siglip\"");
  const auto twice = FolderRepository::Open({repository_, repository_});
  EXPECT_THAT(std::string(twice.status().message()), HasSubstr("each name once"));
}

TEST_F(ModelRepositoryTest, WrongRepositoriesAreNamed) {
  EXPECT_THAT(Error(), HasSubstr("holds no model"));
  AddModel("a", "name: \"other\" backend: \"siglip\"");
  EXPECT_THAT(Error(), HasSubstr("expected \"a\" like the folder, got \"other\""));
  AddModel("a", "nonsense {");
  EXPECT_THAT(Error(), HasSubstr("a/config.pbtxt:1"));
  AddModel("a", "backend: \"siglip\"");
  std::filesystem::remove(repository_ + "/a/1");
  EXPECT_THAT(Error(), HasSubstr("version folder"));
  EXPECT_THAT(std::string(FolderRepository::Open({"/nonexistent"}).status().message()),
              HasSubstr("/nonexistent"));
}

// Whatever is read, in part or not at all: an error, and no exception.
TEST_F(ModelRepositoryTest, AListingThatBreaksOffIsAnError) {
  AddModel("a", "backend: \"siglip\"");
  AddModel("b", "backend: \"siglip\"");
  const auto repository = FolderRepository::Open({repository_});
  ASSERT_TRUE(repository.ok()) << repository.status();
  int reads = 0;
  for (absl::Status status = absl::InternalError("not read yet"); !status.ok(); ++reads) {
    ASSERT_LT(reads, 100);
    reads_left = reads;
    status = (*repository)->Names().status();
    reads_left = -1;
    EXPECT_NE(status.code(), absl::StatusCode::kNotFound) << status;
  }
  EXPECT_GT(reads, 4) << "names of two models, . and ..";
  reads = 0;
  for (absl::Status status = absl::InternalError("not read yet"); !status.ok(); ++reads) {
    ASSERT_LT(reads, 100);
    reads_left = reads;
    status = (*repository)->Read("b").status();
    reads_left = -1;
    EXPECT_NE(status.code(), absl::StatusCode::kNotFound) << status;
    EXPECT_NE(status.code(), absl::StatusCode::kInvalidArgument) << status;
  }
}

}  // namespace
}  // namespace siglip::cli
