#include "api/many.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "api/fake_model.h"

namespace siglip {
namespace {

TEST(ManyTest, EveryImageGetsItsOwnRowAndTheEngineFullCalls) {
  FakeModel model;
  ThreadPool pool(3);
  const std::string names = "abcdefghijklmnopqrs";  // 19: two calls of 8, one of 3
  std::vector<ImageSource> images;
  for (const char& name : names) images.push_back({.data = {&name, 1}});
  std::vector<float> rows(2 * names.size());
  std::vector<absl::Status> statuses(names.size());
  ASSERT_TRUE(EmbedManyImages(model, pool, images, rows.data(), statuses).ok());
  for (std::size_t i = 0; i < names.size(); ++i) {
    EXPECT_TRUE(statuses[i].ok());
    EXPECT_EQ(rows[2 * i], names[i]);
    EXPECT_EQ(rows[2 * i + 1], 1);
  }
  EXPECT_EQ(model.batches(), (std::vector<std::size_t>{8, 8, 3}));
}

TEST(ManyTest, BadImagesFailAloneAndLeaveTheirRows) {
  FakeModel model;
  ThreadPool pool(2);
  const std::vector<ImageSource> images = {
      {.data = "bad"},
      {.data = "x"},
      {.kind = ImageSource::Kind::kPath, .data = "/none"},
      {.kind = ImageSource::Kind::kRgb, .data = "12", .width = 1, .height = 1},
      {.kind = ImageSource::Kind::kRgb, .data = "123", .width = 1, .height = 1}};
  std::vector<float> rows(2 * images.size(), -1);
  std::vector<absl::Status> statuses(images.size());
  ASSERT_TRUE(EmbedManyImages(model, pool, images, rows.data(), statuses).ok());
  std::vector<absl::StatusCode> codes;
  for (const absl::Status& status : statuses) codes.push_back(status.code());
  EXPECT_EQ(codes, (std::vector<absl::StatusCode>{
                       absl::StatusCode::kInvalidArgument, absl::StatusCode::kOk,
                       absl::StatusCode::kNotFound, absl::StatusCode::kInvalidArgument,
                       absl::StatusCode::kOk}));
  EXPECT_EQ(rows, (std::vector<float>{-1, -1, 'x', 1, -1, -1, -1, -1, '1', 1}));
}

TEST(ManyTest, AFileThatIsTooLongIsNotRead) {
  FakeModel model;
  ThreadPool pool(1);
  const std::string path = ::testing::TempDir() + "many_test_sparse.jpg";
  std::ofstream(path) << "x";
  std::filesystem::resize_file(path, (std::uintmax_t{1} << 30) + 1);
  const std::vector<ImageSource> images = {{.kind = ImageSource::Kind::kPath, .data = path}};
  std::vector<float> rows(2);
  std::vector<absl::Status> statuses(1);
  ASSERT_TRUE(EmbedManyImages(model, pool, images, rows.data(), statuses).ok());
  std::filesystem::remove(path);
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kResourceExhausted) << statuses[0];
}

// The threads of a pool are no place for an exception.
TEST(ManyTest, MemoryThatRunsOutCostsItsItem) {
  struct Greedy final : FakeModel {
    absl::StatusOr<PatchGrid> Preprocess(std::string_view bytes, float* pixels,
                                         PreprocessTimes* times) const override {
      if (bytes.starts_with("big")) throw std::bad_alloc();
      return FakeModel::Preprocess(bytes, pixels, times);
    }
  } model;
  ThreadPool pool(2);
  const std::vector<ImageSource> images = {{.data = "big"}, {.data = "a"}};
  std::vector<float> rows(4);
  std::vector<absl::Status> statuses(2);
  ASSERT_TRUE(EmbedManyImages(model, pool, images, rows.data(), statuses).ok());
  EXPECT_EQ(statuses[0], absl::ResourceExhaustedError("image: out of memory"));
  EXPECT_TRUE(statuses[1].ok());
  EXPECT_EQ(rows[2], 'a');
}

TEST(ManyTest, NothingButBadImagesNeedNoEngine) {
  FakeModel model;
  ThreadPool pool(1);
  const std::vector<ImageSource> images(20, {.data = "bad"});
  std::vector<float> rows(2 * images.size());
  std::vector<absl::Status> statuses(images.size());
  ASSERT_TRUE(EmbedManyImages(model, pool, images, rows.data(), statuses).ok());
  for (const absl::Status& status : statuses) EXPECT_FALSE(status.ok());
  EXPECT_TRUE(model.batches().empty());
}

TEST(ManyTest, EmptyListsAreFine) {
  FakeModel model;
  ThreadPool pool(1);
  EXPECT_TRUE(EmbedManyImages(model, pool, {}, nullptr, {}).ok());
  EXPECT_TRUE(EmbedManyTexts(model, {}, nullptr, {}).ok());
}

TEST(ManyTest, TextsKeepTheirPlacesAroundBadOnes) {
  FakeModel model;
  std::vector<std::string_view> texts(70, "four");
  texts[40] = "\xff";
  texts[41] = "three";
  std::vector<float> rows(2 * texts.size(), -1);
  std::vector<absl::Status> statuses(texts.size());
  ASSERT_TRUE(EmbedManyTexts(model, texts, rows.data(), statuses).ok());
  EXPECT_FALSE(statuses[40].ok());
  EXPECT_EQ(rows[80], -1);
  EXPECT_EQ(rows[82], 5);
  EXPECT_EQ(rows[138], 4);
}

}  // namespace
}  // namespace siglip
