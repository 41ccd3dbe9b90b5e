#include "cli/image_pipeline.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "api/fake_model.h"
#include "base/file_map.h"

namespace siglip::cli {
namespace {

class ImagePipelineTest : public testing::Test {
 protected:
  ImagePipelineTest() : folder_(testing::TempDir() + "image_pipeline_test") {
    std::filesystem::create_directories(folder_);
  }
  ~ImagePipelineTest() override { std::filesystem::remove_all(folder_); }

  std::vector<std::string> WriteFiles(int count) {
    std::vector<std::string> paths;
    for (int i = 0; i < count; ++i) {
      paths.push_back(folder_ + "/" + std::to_string(i));
      std::ofstream(paths.back()) << static_cast<char>(i + 1) << "image";
    }
    return paths;
  }

  const std::string folder_;
  FakeModel model_;
};

TEST_F(ImagePipelineTest, ReportsEveryFileOnceInOrder) {
  const auto paths = WriteFiles(50);
  std::vector<float> seen;
  ASSERT_TRUE(
      EmbedImageFiles(model_, paths, {.preprocess_threads = 4, .batch_size = 3},
                      [&](std::size_t i, const absl::Status& status, std::span<const float> row) {
                        EXPECT_TRUE(status.ok());
                        EXPECT_EQ(i, seen.size());
                        seen.push_back(row[0]);
                      })
          .ok());
  ASSERT_EQ(seen.size(), 50u);
  for (std::size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], static_cast<float>(i + 1));
  EXPECT_EQ(model_.batches().size(), 17u);
}

TEST_F(ImagePipelineTest, BadAndMissingFilesFailAlone) {
  auto paths = WriteFiles(4);
  std::ofstream(paths[1]) << "bad";
  paths[2] += ".missing";
  std::vector<bool> ok;
  ASSERT_TRUE(
      EmbedImageFiles(model_, paths, {.preprocess_threads = 2, .batch_size = 4},
                      [&](std::size_t, const absl::Status& status, std::span<const float> row) {
                        ok.push_back(status.ok());
                        EXPECT_EQ(row.empty(), !status.ok());
                      })
          .ok());
  EXPECT_EQ(ok, (std::vector<bool>{true, false, false, true}));
  EXPECT_EQ(model_.batches(), (std::vector<std::size_t>{2}));
}

TEST_F(ImagePipelineTest, AFileLongerThanAnArchivesMemberMayBeFailsAlone) {
  const auto paths = WriteFiles(3);
  std::filesystem::resize_file(paths[1], kMaxImageBytes + 1);  // sparse
  std::vector<absl::Status> seen;
  ASSERT_TRUE(EmbedImageFiles(model_, paths, {.preprocess_threads = 1, .batch_size = 4},
                              [&](std::size_t, const absl::Status& status, std::span<const float>) {
                                seen.push_back(status);
                              })
                  .ok());
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_TRUE(seen[0].ok() && seen[2].ok());
  EXPECT_EQ(seen[1].code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(seen[1].message(), "'" + paths[1] + "' has 1073741825 bytes, the limit is 1073741824");
}

TEST_F(ImagePipelineTest, ABatchOfOnlyBadFilesRunsNothing) {
  auto paths = WriteFiles(2);
  for (const std::string& path : paths) std::ofstream(path) << "bad";
  int reported = 0;
  ASSERT_TRUE(EmbedImageFiles(model_, paths, {}, [&](std::size_t, const absl::Status&, auto) {
                ++reported;
              }).ok());
  EXPECT_EQ(reported, 2);
  EXPECT_TRUE(model_.batches().empty());
}

TEST_F(ImagePipelineTest, TextsComeBackInOrderAndBadOnesFailAlone) {
  const std::vector<std::string> texts = {"a", "\xff", "abc"};
  std::vector<float> lengths;
  ASSERT_TRUE(EmbedTexts(model_, texts, 2,
                         [&](std::size_t, const absl::Status& status, std::span<const float> row) {
                           lengths.push_back(status.ok() ? row[0] : -1);
                         })
                  .ok());
  EXPECT_EQ(lengths, (std::vector<float>{1, -1, 3}));
}

// Files, then texts, as given.
bulk::JobItems Items(const std::vector<std::string>& files, const std::vector<std::string>& texts) {
  bulk::JobItems items;
  for (const std::string& file : files) items.inputs.Add(file);
  for (const std::string& text : texts) items.texts.Add(text);
  return items;
}

TEST_F(ImagePipelineTest, BadItemsLeaveNoHolesInBatches) {
  auto paths = WriteFiles(20);
  for (std::size_t i = 0; i < paths.size(); i += 2) std::ofstream(paths[i]) << "bad";
  ASSERT_TRUE(EmbedImageFiles(model_, paths, {.preprocess_threads = 2, .batch_size = 4},
                              [](std::size_t, const absl::Status&, auto) {})
                  .ok());
  EXPECT_EQ(model_.batches(), (std::vector<std::size_t>{4, 4, 2}));
}

TEST_F(ImagePipelineTest, ImagesAndTextsOfAJobComeInOrder) {
  const bulk::JobItems items = Items(WriteFiles(5), {"a", "\xff", "abc"});
  const auto source = bulk::OpenItems(items, {}, {});
  std::vector<float> seen;
  ASSERT_TRUE(EmbedItems(model_, *source, {.preprocess_threads = 2, .batch_size = 4},
                         [&](const bulk::Item& item, const absl::Status& status, auto row) {
                           EXPECT_EQ(item.next.input, seen.size() + 1);
                           seen.push_back(status.ok() ? row[0] : -1);
                           return absl::OkStatus();
                         })
                  .ok());
  EXPECT_EQ(seen, (std::vector<float>{1, 2, 3, 4, 5, 1, -1, 3}));
}

TEST_F(ImagePipelineTest, AnErrorOfTheReceiverEndsTheJob) {
  const bulk::JobItems items = Items(WriteFiles(50), {});
  const auto source = bulk::OpenItems(items, {}, {});
  int reported = 0;
  const absl::Status status = EmbedItems(
      model_, *source, {.preprocess_threads = 2, .batch_size = 4},
      [&](const bulk::Item&, const absl::Status&, auto) {
        return ++reported == 6 ? absl::ResourceExhaustedError("disk full") : absl::OkStatus();
      });
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(reported, 6);
}

}  // namespace
}  // namespace siglip::cli
