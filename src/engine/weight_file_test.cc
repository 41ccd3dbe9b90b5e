#include "engine/weight_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace siglip {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class WeightFileTest : public testing::Test {
 protected:
  WeightFileTest() : path_(absl::StrCat(testing::TempDir(), "/weight_file_", ::getpid())) {}
  ~WeightFileTest() override { std::filesystem::remove(path_); }

  void Write() {
    const int fd = ::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644);
    ASSERT_GE(fd, 0);
    WeightFileWriter writer(fd, path_, "label");
    writer.Append("one", std::vector<float>{1, 2, 3});
    writer.Append("none", {});
    writer.Append("two", std::vector<float>(40, 4.0f));
    EXPECT_TRUE(writer.Finish(team_).ok());
    ::close(fd);
  }

  std::string Read() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  absl::Status OpenAs(const std::string& content) {
    std::ofstream(path_, std::ios::binary) << content;
    return WeightFile::Open(path_, "label", team_).status();
  }

  ThreadTeam team_{1};
  const std::string path_;
};

TEST_F(WeightFileTest, ArraysComeBackAlignedInTheirOrder) {
  Write();
  auto file = WeightFile::Open(path_, "label", team_);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto one = file->Next("one", 3);
  EXPECT_THAT(one, ElementsAre(1, 2, 3));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(one.data()) % 64, 0u);
  EXPECT_TRUE(file->Next("none", 0).empty());
  const auto two = file->Next("two", 40);
  EXPECT_THAT(two, testing::Each(4.0f));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(two.data()) % 64, 0u);
  EXPECT_TRUE(file->status().ok()) << file->status();
  EXPECT_TRUE(file->Next("three", 1).empty());
  EXPECT_THAT(std::string(file->status().message()),
              HasSubstr("\"three\" of 1 floats, got nothing"));
}

TEST_F(WeightFileTest, AnotherNameOrSizeIsRefusedAndSoIsAllThatFollows) {
  Write();
  for (const auto& [name, count] : {std::pair{"on", 3}, {"one", 2}, {"one", 4}}) {
    auto file = WeightFile::Open(path_, "label", team_);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_TRUE(file->Next(name, count).empty());
    EXPECT_THAT(std::string(file->status().message()), HasSubstr("got \"one\" of 3"));
    EXPECT_TRUE(file->Next("one", 3).empty());
  }
  const absl::Status label = WeightFile::Open(path_, "other", team_).status();
  EXPECT_THAT(std::string(label.message()), HasSubstr("of \"other\", got \"label\""));
}

TEST_F(WeightFileTest, EveryFlippedBitAndEveryLengthIsRefused) {
  Write();
  const std::string good = Read();
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ 1 << bit % 8);
    EXPECT_FALSE(OpenAs(bad).ok()) << "bit " << bit;
  }
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_FALSE(OpenAs(good.substr(0, length)).ok()) << "length " << length;
  }
  EXPECT_FALSE(OpenAs(good + '\0').ok());
  EXPECT_FALSE(OpenAs(std::string(good.size(), 'x')).ok());
  EXPECT_TRUE(OpenAs(good).ok());
}

TEST_F(WeightFileTest, AFullDiskIsAnErrorOfFinish) {
  const int fd = ::open("/dev/full", O_RDWR);
  ASSERT_GE(fd, 0);
  WeightFileWriter writer(fd, "/dev/full", "label");
  writer.Append("one", std::vector<float>(100));
  EXPECT_THAT(std::string(writer.Finish(team_).message()), HasSubstr("cannot write '/dev/full'"));
  ::close(fd);
}

}  // namespace
}  // namespace siglip
