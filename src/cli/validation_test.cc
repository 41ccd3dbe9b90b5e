#include "cli/validation.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "api/fake_model.h"
#include "cli/validation_report.h"

namespace siglip::cli {
namespace {

using testing::HasSubstr;

// Two classes whose images embed as [v, 1]: small v and large v.
class ValidationTest : public testing::Test {
 protected:
  ValidationTest() : root_(testing::TempDir() + "validation_test") {
    std::filesystem::remove_all(root_);
    for (const char* split : {"train", "valid"}) {
      for (int i = 0; i < 3; ++i) {
        Write(absl::StrCat(split, "/small/", i), static_cast<char>(1 + i));
        Write(absl::StrCat(split, "/large/", i), static_cast<char>(100 + i));
      }
    }
    std::ofstream(root_ + "/LOC_synset_mapping.txt") << "small s\nlarge <l|\"a\">\n";
  }
  ~ValidationTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, char value) {
    const std::filesystem::path file(root_ + "/" + path);
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << value << "image";
  }
  absl::StatusOr<Validation> Run(EmbeddingCache* cache = nullptr) {
    auto folder = OpenImagenetFolder(root_);
    if (!folder.ok()) return folder.status();
    ValidationOptions options;
    options.templates = {"a {text}", "of {label}"};
    options.unpadded = true;
    options.threads = 1;
    const auto embedder = MakeModelEmbedder(model_, {.preprocess_threads = 1});
    return Validate(*embedder, cache, *std::move(folder), options);
  }

  const std::string root_;
  FakeModel model_;
};

TEST_F(ValidationTest, HasARowPerWayOfClassifying) {
  const auto validation = Run();
  ASSERT_TRUE(validation.ok()) << validation.status();
  std::vector<std::string> names;
  for (const ValidationRow& row : validation->rows) names.push_back(row.name);
  EXPECT_THAT(names, testing::ElementsAre("3-shot", "Zero-shot", "Zero-shot",
                                          "Zero-shot, no padding", "Zero-shot, sigmoid"));
  EXPECT_EQ(validation->rows[0].top1(), 1);
  EXPECT_EQ(validation->rows[0].k, 6);
  EXPECT_THAT(validation->remarks,
              testing::Contains(HasSubstr("3-shot: only 6 training rows, so 6 neighbours vote")));
  EXPECT_EQ(validation->rows[1].predictions.size(), 6u);
}

TEST_F(ValidationTest, FailedImagesAreListedAndLeftOut) {
  std::ofstream(root_ + "/valid/small/1") << "bad";
  std::filesystem::remove(root_ + "/train/large/2");
  std::filesystem::create_symlink("nowhere", root_ + "/train/large/2");
  const auto validation = Run();
  ASSERT_TRUE(validation.ok()) << validation.status();
  ASSERT_EQ(validation->failures.size(), 2u);
  EXPECT_THAT(validation->failures[0].name, HasSubstr("train/large/2"));
  EXPECT_THAT(validation->failures[1].name, HasSubstr("valid/small/1"));
  EXPECT_EQ(validation->rows[0].predictions.size(), 5u);
  EXPECT_EQ(validation->train.images.size(), 5u);
}

TEST_F(ValidationTest, AClassWithoutTrainingImagesCountsAsMisses) {
  std::filesystem::remove_all(root_ + "/train/small");
  const auto validation = Run();
  ASSERT_TRUE(validation.ok()) << validation.status();
  EXPECT_EQ(validation->rows[0].hits1, 3);
  EXPECT_EQ(validation->rows[0].hits5, 3);
  EXPECT_THAT(validation->remarks, testing::Contains(HasSubstr("nothing to learn from")));
}

TEST_F(ValidationTest, ASplitWithoutAnyGoodImageIsAnError) {
  for (const char* image : {"small/0", "small/1", "small/2", "large/0", "large/1", "large/2"}) {
    std::ofstream(root_ + "/valid/" + image) << "bad";
  }
  EXPECT_THAT(std::string(Run().status().message()), HasSubstr("valid images: all 6 failed"));
}

TEST_F(ValidationTest, ASecondRunTakesEverythingFromTheCache) {
  auto cache = EmbeddingCache::Open(root_ + "/cache", "id", 2);
  ASSERT_TRUE(cache.ok());
  const auto first = Run(cache->get());
  ASSERT_TRUE(first.ok());
  const std::size_t batches = model_.batches().size();
  EXPECT_GT(batches, 0u);
  const auto second = Run(cache->get());
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(model_.batches().size(), batches);
  EXPECT_EQ(first->valid.rows, second->valid.rows);
  EXPECT_EQ(MarkdownTable(*first), MarkdownTable(*second));
}

TEST_F(ValidationTest, ReportsEscapeWhatTheDataSays) {
  const auto validation = Run();
  ASSERT_TRUE(validation.ok());
  const std::string html = ValidationHtml(*validation);
  EXPECT_THAT(html, HasSubstr("&lt;l|&quot;a&quot;&gt;"));
  EXPECT_THAT(html, testing::Not(HasSubstr("<l|")));
  EXPECT_THAT(MarkdownTable(*validation), HasSubstr("| 3-shot | 1.0000 | 1.0000 |  |"));
  const std::string csv = PredictionsCsv(*validation);
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 1 + 5 * 6);
}

TEST_F(ValidationTest, AFingerprintTellsModelsApart) {
  const auto embedder = MakeModelEmbedder(model_, {});
  const auto name = Fingerprint(*embedder);
  ASSERT_TRUE(name.ok()) << name.status();
  EXPECT_EQ(*Fingerprint(*embedder), *name);
}

}  // namespace
}  // namespace siglip::cli
