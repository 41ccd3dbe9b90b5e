#include "cli/validation.h"

#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "api/fake_model.h"
#include "base/file_map.h"
#include "cli/validation_report.h"
#include "image/preprocess.h"

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

TEST_F(ValidationTest, ACacheThatCannotBeWrittenCostsOnlyWhatItWouldHaveKept) {
  auto cache = EmbeddingCache::Open(root_ + "/cache", "id", 2);
  ASSERT_TRUE(cache.ok());
  const auto expected = Run();
  ASSERT_TRUE(expected.ok());
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit little{100, limit.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &little), 0);
  const auto validation = Run(cache->get());
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::signal(SIGXFSZ, handler);
  ASSERT_TRUE(validation.ok()) << validation.status();
  EXPECT_LE((*cache)->size(), 3u);
  EXPECT_EQ(MarkdownTable(*validation), MarkdownTable(*expected));
  EXPECT_EQ(validation->valid.rows, expected->valid.rows);
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
  model_.mutable_info().max_patches = 256;
  const auto patches = Fingerprint(*MakeModelEmbedder(model_, {}));
  EXPECT_NE(*patches, *name);
  model_.mutable_info().pixels.pillow = 12;
  EXPECT_NE(*Fingerprint(*MakeModelEmbedder(model_, {})), *patches);
}

// Gives the pixels of a picture for its embedding, and tells nothing of how they are made.
class PixelEmbedder final : public Embedder {
 public:
  explicit PixelEmbedder(const PreprocessOptions& options) : preprocessor_(options) {}
  std::string Describe() const override { return "pixels"; }
  absl::StatusOr<std::string> Recipe() override { return ""; }
  std::int64_t embedding_size() const override { return 1; }
  std::optional<LogitConstants> logit_constants() const override { return std::nullopt; }
  absl::Status EmbedImages(std::span<const std::string> paths,
                           const OnEmbedding& on_embedding) override {
    for (std::size_t i = 0; i < paths.size(); ++i) {
      std::vector<float> pixels(preprocessor_.pixel_values());
      const auto bytes = ReadFile(paths[i], 1 << 24);
      on_embedding(i, preprocessor_.Preprocess(bytes.value_or(""), pixels.data()).status(), pixels);
    }
    return absl::OkStatus();
  }
  absl::Status EmbedTexts(std::span<const std::string>, const OnEmbedding&) override {
    return absl::OkStatus();
  }
  absl::Status EmbedTextsUnpadded(std::span<const std::string>, const OnEmbedding&) override {
    return absl::OkStatus();
  }

 private:
  const Preprocessor preprocessor_;
};

TEST(FingerprintTest, TheOrderOfTheResizePassesShowsInThePixels) {
  std::set<std::string> names;
  for (const PillowVersion pillow : {PillowVersion::k12, PillowVersion::k13}) {
    for (const int size : {64, 384, 1024}) {
      PixelEmbedder embedder({.image_size = size, .patches = std::nullopt, .pillow = pillow});
      names.insert(Fingerprint(embedder).value_or(""));
    }
    for (const int max_patches : {64, 256, 1024}) {
      PixelEmbedder embedder({.patches = PatchOptions{16, max_patches}, .pillow = pillow});
      names.insert(Fingerprint(embedder).value_or(""));
    }
  }
  EXPECT_EQ(names.size(), 12u);
  EXPECT_EQ(names.count(""), 0u);
}

}  // namespace
}  // namespace siglip::cli
