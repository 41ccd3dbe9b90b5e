#include "cli/model_repository.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
    const auto configs = ReadModelRepository(repository_);
    return configs.ok() ? "read" : std::string(configs.status().message());
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
  const auto configs = ReadModelRepository(repository_);
  ASSERT_TRUE(configs.ok()) << configs.status();
  ASSERT_EQ(configs->size(), 2u);
  EXPECT_EQ((*configs)[0].name, "a");
  EXPECT_EQ((*configs)[1].name, "b");
  EXPECT_THAT((*configs)[1].versions, ElementsAre(3, 12));
  EXPECT_EQ((*configs)[1].directory, repository_ + "/b");
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
  EXPECT_THAT(std::string(ReadModelRepository("/nonexistent").status().message()),
              HasSubstr("/nonexistent"));
}

}  // namespace
}  // namespace siglip::cli
