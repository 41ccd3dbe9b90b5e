#include "eval/imagenet_sample.h"

#include <filesystem>
#include <fstream>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "eval/imagenet_folder.h"

namespace siglip {
namespace {

namespace fs = std::filesystem;

class ImagenetSampleTest : public testing::Test {
 protected:
  ImagenetSampleTest() : root_(testing::TempDir() + "imagenet_sample_test") {
    fs::remove_all(root_);
    for (const auto& [label, count] : {std::pair("n1", 50), std::pair("n2", 12)}) {
      const std::string folder = absl::StrCat(root_, "/full/ILSVRC/Data/CLS-LOC/train/", label);
      fs::create_directories(folder);
      for (int i = 0; i < count; ++i) {
        std::ofstream(absl::StrCat(folder, "/", label, "_", i, ".JPEG")) << i;
      }
    }
    std::ofstream(root_ + "/full/LOC_synset_mapping.txt") << "n1 one\nn2 two\nn3 three\n";
  }
  ~ImagenetSampleTest() override { fs::remove_all(root_); }

  std::set<std::string> Sample(const std::string& output, std::uint64_t seed, bool copy = false) {
    SampleOptions options;
    options.source = root_ + "/full";
    options.output = root_ + "/" + output;
    options.seed = seed;
    options.copy = copy;
    const auto result = SampleImagenet(options);
    EXPECT_TRUE(result.ok()) << result.status();
    if (result.ok()) result_ = *result;
    std::set<std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(options.output)) {
      if (entry.is_regular_file()) {
        files.insert(entry.path().lexically_relative(options.output).string());
        EXPECT_EQ(entry.is_symlink(), !copy && entry.path().extension() == ".JPEG");
      }
    }
    return files;
  }

  const std::string root_;
  SampleResult result_;
};

TEST_F(ImagenetSampleTest, TakesDisjointImagesAndSaysWhatLacks) {
  const auto files = Sample("out", 1);
  EXPECT_EQ(result_.train, 20);
  EXPECT_EQ(result_.valid, 22);
  EXPECT_THAT(result_.lacking, testing::ElementsAre("n2: expected 30 images, found 12",
                                                    "n3: expected 30 images, found 0"));
  std::set<std::string> names;
  for (const std::string& file : files) names.insert(fs::path(file).filename());
  EXPECT_EQ(names.size(), files.size());
  const auto folder = OpenImagenetFolder(root_ + "/out");
  ASSERT_TRUE(folder.ok());
  EXPECT_EQ(folder->valid.size(), 22u);
}

TEST_F(ImagenetSampleTest, WithoutAnImageNothingIsWritten) {
  std::ofstream(root_ + "/others") << "m1 one\nm2 two\n";
  SampleOptions options;
  options.source = root_ + "/full";
  options.mapping = root_ + "/others";
  options.output = root_ + "/none";
  const auto result = SampleImagenet(options);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kNotFound) << result.status();
  EXPECT_FALSE(fs::exists(options.output));
}

TEST_F(ImagenetSampleTest, TheSeedDecides) {
  EXPECT_EQ(Sample("a", 1), Sample("b", 1, true));
  EXPECT_NE(Sample("c", 1), Sample("d", 2));
}

TEST_F(ImagenetSampleTest, AnOutputThatIsThereIsRefused) {
  Sample("out", 1);
  SampleOptions options;
  options.source = root_ + "/full";
  options.output = root_ + "/out";
  EXPECT_EQ(SampleImagenet(options).status().code(), absl::StatusCode::kAlreadyExists);
}

}  // namespace
}  // namespace siglip
