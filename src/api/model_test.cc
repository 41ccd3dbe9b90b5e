#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file_map.h"
#include "siglip/siglip.h"

namespace siglip {
namespace {

using testing::HasSubstr;

constexpr const char* kDemoModel = "models/demo";

std::string Picture(const std::string& name) {
  return *ReadFile("data/demo/examples/" + name, 1 << 24);
}

class ModelTest : public testing::Test {
 protected:
  ModelTest() : model_(*Model::Open(kDemoModel, {.num_threads = 2, .max_batch_size = 3})) {}
  std::unique_ptr<Model> model_;
};

TEST_F(ModelTest, TheExampleOfTheHeaderWorks) {
  const auto embedding = model_->EmbedImage(Picture("seven.png"));
  ASSERT_TRUE(embedding.ok()) << embedding.status();
  EXPECT_EQ(static_cast<std::int64_t>(embedding->size()), model_->info().embedding_size);
  const auto text = model_->EmbedText("a photo of a cat");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->size(), embedding->size());
}

TEST_F(ModelTest, ABatchEqualsItsSinglesBitForBit) {
  const std::size_t side = static_cast<std::size_t>(model_->info().image_size);
  const std::size_t width = static_cast<std::size_t>(model_->info().embedding_size);
  const std::vector<std::string> names = {"seven.png", "red_circle.jpg", "blue_star.png"};
  std::vector<std::vector<float>> pixels(7), rows(7, std::vector<float>(width));
  std::vector<const float*> images;
  std::vector<float*> embeddings;
  for (std::size_t i = 0; i < 7; ++i) {
    pixels[i].resize(3 * side * side);
    ASSERT_TRUE(model_->Preprocess(Picture(names[i % 3]), pixels[i].data()).ok());
    images.push_back(pixels[i].data());
    embeddings.push_back(rows[i].data());
  }
  ASSERT_TRUE(model_->EncodePixels(images, embeddings).ok());
  for (std::size_t i = 0; i < 7; ++i)
    EXPECT_EQ(rows[i], *model_->EmbedImage(Picture(names[i % 3])));
}

TEST_F(ModelTest, BadInputIsNamedAndLeavesTheModelUsable) {
  EXPECT_EQ(model_->EmbedImage("no image").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(model_->EmbedText("\xff").status().message()), HasSubstr("offset 0"));
  const std::vector<std::int64_t> ids(static_cast<std::size_t>(model_->info().text_length),
                                      model_->info().vocab_size);
  std::vector<float> row(static_cast<std::size_t>(model_->info().embedding_size));
  const std::int64_t* const texts[] = {ids.data()};
  float* const rows[] = {row.data()};
  EXPECT_EQ(model_->EncodeTokens(texts, model_->info().text_length, rows).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(model_->EncodeTokens(texts, model_->info().text_length + 1, rows).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(model_->EmbedText("still here").ok());
}

TEST_F(ModelTest, SeveralThreadsGetTheSameNumbersAsOne) {
  const auto image = model_->EmbedImage(Picture("red_circle.jpg"));
  const auto text = model_->EmbedText("a red circle");
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 5; ++k) {
        EXPECT_EQ(*model_->EmbedImage(Picture("red_circle.jpg")), *image);
        EXPECT_EQ(*model_->EmbedText("a red circle"), *text);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// It is told so, may prepare inputs, and its exit waits for no thread that it has not.
TEST_F(ModelTest, AForkedChildCannotEncode) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::alarm(60);
    std::vector<float> pixels(model_->info().pixel_values());
    const bool told = absl::IsFailedPrecondition(model_->EmbedText("x").status()) &&
                      absl::IsFailedPrecondition(model_->EmbedImage(Picture("seven.png")).status());
    const bool prepares = model_->Preprocess(Picture("seven.png"), pixels.data()).ok();
    model_.reset();
    ::_exit(told && prepares ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(ModelTest, InspectImageReadsTheHeadOnly) {
  const auto info = model_->InspectImage(Picture("seven.png"));
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->format, "PNG");
  EXPECT_EQ(info->width, 224);
  EXPECT_GT(info->working_set_bytes, 224 * 224 * 3);
}

TEST(ModelOpenTest, WrongOptionsAndFoldersAreNamed) {
  EXPECT_THAT(std::string(Model::Open("/nonexistent").status().message()),
              HasSubstr("/nonexistent"));
  EXPECT_THAT(std::string(Model::Open(kDemoModel, {.pillow = 11}).status().message()),
              HasSubstr("12 or 13"));
  EXPECT_EQ(Model::Open(kDemoModel, {.num_threads = -1}).status(),
            absl::InvalidArgumentError("num_threads: expected at least 0, got -1"));
  EXPECT_EQ(Model::Open(kDemoModel, {.max_batch_size = 0}).status(),
            absl::InvalidArgumentError("max_batch_size: expected at least 1, got 0"));
  EXPECT_EQ(Model::Open(kDemoModel, {.max_pixels = -5}).status(),
            absl::InvalidArgumentError("max_pixels: expected at least 0, got -5"));
  EXPECT_THAT(std::string(Model::Open(kDemoModel, {.precision = "int4"}).status().message()),
              HasSubstr("int4"));
  // Whether it is this build, this machine or the number that has no such GPU.
  const auto no_gpu = Model::Open(kDemoModel, {.device = "cuda:1000"});
  EXPECT_EQ(no_gpu.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(no_gpu.status().message()), HasSubstr("device cuda:1000"));
  EXPECT_THAT(std::string(Model::Open(kDemoModel, {.device = "gpu"}).status().message()),
              HasSubstr("cuda:N[,N...]"));
  EXPECT_THAT(
      std::string(
          Model::Open(kDemoModel, {.precision = "fp16", .device = "cpu"}).status().message()),
      HasSubstr("on a CPU, got fp16"));
  EXPECT_THAT(
      std::string(
          Model::Open(kDemoModel, {.precision = "int16", .device = "cuda"}).status().message()),
      HasSubstr("on a GPU, got int16"));
  EXPECT_EQ(Model::Open(kDemoModel, {.device = "cpu", .gpu_resize = true}).status(),
            absl::InvalidArgumentError("gpu_resize: expected a GPU (--device cuda), got cpu"));
}

TEST(ModelOpenTest, AutoIsTheCpuWhereThePrecisionSaysSo) {
  const auto model =
      Model::Open(kDemoModel, {.num_threads = 1, .precision = "int16", .device = "auto"});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT((*model)->info().engine, HasSubstr("cpu"));
  EXPECT_TRUE((*model)->info().gpus.empty());
  EXPECT_TRUE((*model)->Health().ok());
}

}  // namespace
}  // namespace siglip
