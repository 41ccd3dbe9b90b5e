#include "bulk/output.h"

#include <filesystem>
#include <map>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/file_map.h"
#include "base/status_macros.h"
#include "bulk/parquet.h"

namespace siglip::bulk {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

class OutputTest : public testing::TestWithParam<std::string> {
 protected:
  OutputTest() : folder_(testing::TempDir() + "output_test/"), path_(folder_ + "out" + GetParam()) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    if (GetParam() == ".parquet" && !ParquetIsBuiltIn().ok()) skipped_ = true;
  }
  ~OutputTest() override { fs::remove_all(folder_); }

  absl::StatusOr<std::unique_ptr<Output>> Open(const Json& job = {{"dtype", "float32"}},
                                               bool overwrite = false, bool keep_finished = false,
                                               const std::string& failures_path = "") {
    return Output::Open({.path = path_,
                         .failures_path = failures_path,
                         .width = 2,
                         .overwrite = overwrite,
                         .keep_finished = keep_finished},
                        job, {{"model", "m"}});
  }
  // Adds items [output.start(), end) of a job of ten; item 3 and 7 fail, 8 and 9 are texts.
  static absl::Status Add(Output& output, std::uint64_t end) {
    for (std::uint64_t i = output.start().input; i < end; ++i) {
      const std::vector<float> row = {static_cast<float>(i), 0.5f};
      const std::string name = absl::StrCat("item ", i);
      const Item::Kind kind = i < 8 ? Item::Kind::kImage : Item::Kind::kText;
      SIGLIP_RETURN_IF_ERROR(i == 3 || i == 7 ? output.AddFailure(name, "bad")
                                              : output.AddRow(kind, name, row));
    }
    return output.Commit({end, 0});
  }
  // Every file in the folder, with its content.
  std::map<std::string, std::string> Files() {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
      if (!entry.is_regular_file()) continue;
      files[entry.path().string()] = ReadFile(entry.path().string(), 1 << 20).value_or("?");
    }
    return files;
  }
  // A job that nothing stops.
  void RunWhole() {
    auto output = Open();
    ASSERT_TRUE(output.ok()) << output.status();
    ASSERT_TRUE(Add(**output, 10).ok());
    ASSERT_TRUE((*output)->Finish().ok());
  }
  // Its files.
  std::map<std::string, std::string> Uninterrupted() {
    RunWhole();
    const auto files = Files();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    return files;
  }

  const std::string folder_;
  const std::string path_;
  bool skipped_ = false;
};

#define SIGLIP_SKIP_WITHOUT_PARQUET() \
  if (skipped_) GTEST_SKIP() << "Parquet is not built in"

TEST_P(OutputTest, AppearsWholeAtTheEndOnly) {
  SIGLIP_SKIP_WITHOUT_PARQUET();
  auto output = Open();
  ASSERT_TRUE(output.ok()) << output.status();
  ASSERT_TRUE(Add(**output, 10).ok());
  EXPECT_FALSE(fs::exists(path_));
  ASSERT_TRUE((*output)->Finish().ok());
  EXPECT_TRUE(fs::exists(path_));
  EXPECT_FALSE(fs::exists(path_ + ".parts"));
  const auto files = Files();
  EXPECT_EQ(files.at(path_ + ".failures.jsonl"),
            "{\"name\":\"item 3\",\"error\":\"bad\"}\n{\"name\":\"item 7\",\"error\":\"bad\"}\n");
  const Json meta = Json::parse(files.at(path_ + ".meta.json"));
  EXPECT_EQ(meta.at("images"), 6);
  EXPECT_EQ(meta.at("texts"), 2);
  EXPECT_EQ(meta.at("failed"), 2);
  EXPECT_EQ(meta.at("model"), "m");
  EXPECT_EQ(meta.at("dtype"), "float32");
  if (GetParam() == ".npy") {
    EXPECT_EQ(files.at(path_).size(), kNpyHeaderBytes + 8 * 8);
    EXPECT_EQ(files.at(path_).substr(0, kNpyHeaderBytes), NpyHeader(DType::kFloat32, 8, 2));
    EXPECT_TRUE(files.at(path_ + ".names.txt").starts_with("\"item 0\"\n\"item 1\"\n"));
  }
}

TEST_P(OutputTest, StoppedAnywhereItEndsWithTheSameBytes) {
  SIGLIP_SKIP_WITHOUT_PARQUET();
  const auto expected = Uninterrupted();
  for (const std::uint64_t stop : {0, 3, 4, 9, 10}) {  // around a failure and the texts
    {
      auto output = Open();
      ASSERT_TRUE(output.ok()) << output.status();
      ASSERT_TRUE(Add(**output, stop).ok());
    }
    // Bytes after the last commit are there, or a part of them.
    fs::resize_file(path_ + ".parts/rows", fs::file_size(path_ + ".parts/rows") + 5);
    fs::resize_file(path_ + ".parts/failures.jsonl",
                    fs::file_size(path_ + ".parts/failures.jsonl") + 3);
    auto output = Open();
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_EQ((*output)->start().input, stop);
    ASSERT_TRUE(Add(**output, 10).ok());
    ASSERT_TRUE((*output)->Finish().ok());
    output->reset();
    EXPECT_EQ(Files(), expected) << stop;
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
}

TEST_P(OutputTest, StoppedWhileMovingFilesItMovesTheRest) {
  SIGLIP_SKIP_WITHOUT_PARQUET();
  const auto expected = Uninterrupted();
  // The state just before the moves: a run into a place where a folder is in the way of the last.
  fs::create_directories(path_ + "/in the way");
  auto output = Open({{"dtype", "float32"}}, true);
  ASSERT_TRUE(output.ok()) << output.status();
  ASSERT_TRUE(Add(**output, 10).ok());
  EXPECT_FALSE((*output)->Finish().ok());
  output->reset();
  fs::remove_all(path_);
  output = Open();
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_TRUE((*output)->finished());
  EXPECT_EQ((*output)->counts().failures, 2u);
  output->reset();
  EXPECT_EQ(Files(), expected);
}

TEST_P(OutputTest, AFailuresListThatCannotBeMadeEndsTheJobBeforeItBegins) {
  SIGLIP_SKIP_WITHOUT_PARQUET();
  const auto output = Open({{"dtype", "float32"}}, false, false, "/proc/nope");
  ASSERT_FALSE(output.ok());
  EXPECT_NE(output.status().message().find("/proc/nope"), std::string::npos) << output.status();
  const std::string list = folder_ + "failures";
  ASSERT_TRUE(Open({{"dtype", "float32"}}, false, false, list).ok());
  EXPECT_EQ(Files().count(list), 0u);  // looking leaves nothing behind
}

TEST_P(OutputTest, AFailuresListThatCannotBeMovedLeavesTheOldOutputWhole) {
  SIGLIP_SKIP_WITHOUT_PARQUET();
  RunWhole();
  ASSERT_FALSE(HasFatalFailure());
  const auto old = Files();
  const std::string list = folder_ + "failures";
  {
    auto output = Open({{"dtype", "float16"}}, false, false, list);
    ASSERT_TRUE(output.ok()) << output.status();
    ASSERT_TRUE((*output)->AddFailure("other", "bad").ok());
    ASSERT_TRUE((*output)->AddRow(Item::Kind::kImage, "another", std::vector<float>{1, 2}).ok());
    fs::create_directories(list + "/in the way");
    EXPECT_FALSE((*output)->Finish().ok());
  }
  auto files = Files();
  for (const auto& [name, content] : old) EXPECT_EQ(files.at(name), content) << name;
  fs::remove_all(list);
  const auto output = Open({{"dtype", "float16"}}, false, false, list);
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_TRUE((*output)->finished());
  files = Files();
  EXPECT_EQ(files.at(list), "{\"name\":\"other\",\"error\":\"bad\"}\n");
  EXPECT_NE(files.at(path_), old.at(path_));
}

// Whatever a kill or an error leaves, no reader finds the rows of one job beside the names of
// another. Where names lie in the rows' file, the old one stays until the new one takes its place.
TEST_P(OutputTest, OldRowsAreGoneBeforeNewNamesCome) {
  SIGLIP_SKIP_WITHOUT_PARQUET();
  RunWhole();
  ASSERT_FALSE(HasFatalFailure());
  const std::string old = Files().at(path_);
  auto output = Open({{"dtype", "float16"}});
  ASSERT_TRUE((*output)->AddRow(Item::Kind::kImage, "another", std::vector<float>{1, 2}).ok());
  fs::remove(path_ + ".meta.json");
  fs::create_directories(path_ + ".meta.json/in the way");
  EXPECT_FALSE((*output)->Finish().ok());
  output->reset();
  if (GetParam() == ".npy") {
    EXPECT_EQ(Files().at(path_ + ".names.txt"), "\"another\"\n");
    EXPECT_FALSE(fs::exists(path_));
  } else {
    EXPECT_EQ(Files().at(path_), old);
  }
  fs::remove_all(path_ + ".meta.json");
  EXPECT_TRUE(Open({{"dtype", "float16"}}).ok());
  EXPECT_NE(Files().at(path_), old);
}

TEST_P(OutputTest, AnotherJobIsRefusedByNameUntilOverwritten) {
  SIGLIP_SKIP_WITHOUT_PARQUET();
  {
    auto output = Open();
    ASSERT_TRUE(Add(**output, 4).ok());
  }
  const auto refused = Open({{"dtype", "float16"}});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(refused.status().message().find("dtype was \"float32\", is now \"float16\""),
            std::string::npos)
      << refused.status();
  auto output = Open({{"dtype", "float16"}}, true);
  ASSERT_TRUE(output.ok());
  EXPECT_EQ((*output)->start().input, 0u);
  ASSERT_TRUE(Add(**output, 10).ok());
  ASSERT_TRUE((*output)->Finish().ok());
}

TEST_P(OutputTest, AFinishedJobIsKeptIfAskedForAndElseReplacedAtTheEnd) {
  SIGLIP_SKIP_WITHOUT_PARQUET();
  RunWhole();
  ASSERT_FALSE(HasFatalFailure());
  const auto files = Files();
  const auto again = Open({{"dtype", "float32"}}, false, true);
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE((*again)->finished());
  EXPECT_EQ((*again)->counts().failures, 2u);
  EXPECT_EQ(Open({{"dtype", "float16"}}, false, true).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Files(), files);
  {
    auto other = Open({{"dtype", "float16"}});
    ASSERT_TRUE(other.ok());
    EXPECT_FALSE((*other)->finished());
    ASSERT_TRUE(Add(**other, 2).ok());
    const auto during = Files();
    for (const auto& [name, content] : files) EXPECT_EQ(during.at(name), content) << name;
    ASSERT_TRUE((*other)->Finish().ok());
  }
  const auto after = Files();
  EXPECT_NE(after, files);
  EXPECT_EQ(after.count("out" + GetParam() + ".failures.jsonl"), 0u);
  fs::remove(path_ + ".meta.json");
  EXPECT_EQ(Open({{"dtype", "float16"}}, false, true).status().code(),
            absl::StatusCode::kAlreadyExists);
}

TEST_P(OutputTest, TwoProcessesCannotDoOneJob) {
  SIGLIP_SKIP_WITHOUT_PARQUET();
  const auto output = Open();
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kUnavailable);
}

TEST_P(OutputTest, ADamagedManifestOrPartIsNamed) {
  SIGLIP_SKIP_WITHOUT_PARQUET();
  {
    auto output = Open();
    ASSERT_TRUE(Add(**output, 4).ok());
  }
  const std::string manifest = path_ + ".parts/manifest.json";
  const std::string text = ReadFile(manifest, 1 << 20).value_or("");
  for (const char* damaged : {"", "[]", "{\"manifest\":2}", "{\"manifest\":1}",
                              R"({"manifest":2,"job":{"dtype":"float32"},"complete":3})"}) {
    ASSERT_TRUE(WriteFileAtomically(manifest, damaged).ok());
    const auto output = Open();
    ASSERT_FALSE(output.ok()) << damaged;
    EXPECT_NE(output.status().message().find(manifest), std::string::npos) << output.status();
  }
  const std::string deep = std::string(500'000, '[') + std::string(500'000, ']');
  ASSERT_TRUE(WriteFileAtomically(manifest, R"({"manifest":1,"job":{"dtype":)" + deep + "}}").ok());
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(WriteFileAtomically(manifest, text).ok());
  fs::resize_file(path_ + ".parts/rows", 1);
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kDataLoss);
}

TEST_P(OutputTest, AManifestThatCannotBeLookedForCutsNothing) {
  SIGLIP_SKIP_WITHOUT_PARQUET();
  {
    auto output = Open();
    ASSERT_TRUE(Add(**output, 4).ok());
  }
  const std::string manifest = path_ + ".parts/manifest.json";
  const auto files = Files();
  fs::rename(manifest, manifest + ".kept");
  fs::create_symlink(manifest, manifest);  // ELOOP
  const auto refused = Open();
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find(manifest), std::string::npos) << refused.status();
  fs::rename(manifest + ".kept", manifest);
  EXPECT_EQ(Files(), files);
}

TEST_P(OutputTest, AFinishedJobThatCannotBeLookedForIsNotDoneAgain) {
  SIGLIP_SKIP_WITHOUT_PARQUET();
  for (const std::string& place : {path_, path_ + ".parts"}) {
    fs::create_symlink(place, place);  // ELOOP
    const auto refused = Open({{"dtype", "float32"}}, false, true);
    ASSERT_FALSE(refused.ok()) << place;
    EXPECT_NE(refused.status().message().find("'" + place), std::string::npos) << refused.status();
    fs::remove(place);
  }
}

TEST_P(OutputTest, AFolderWithoutAManifestIsNoJobBegun) {
  SIGLIP_SKIP_WITHOUT_PARQUET();
  RunWhole();
  ASSERT_FALSE(HasFatalFailure());
  fs::create_directory(path_ + ".parts");
  const auto again = Open({{"dtype", "float32"}}, false, true);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE((*again)->finished());
}

TEST_P(OutputTest, NoPartIsOpenWhenThePartsGo) {
  SIGLIP_SKIP_WITHOUT_PARQUET();
  auto output = Open();
  ASSERT_TRUE(Add(**output, 10).ok());
  ASSERT_TRUE((*output)->Finish().ok());
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string target = fs::read_symlink(entry.path(), error).string();
    EXPECT_EQ(target.find(path_), std::string::npos) << target;
  }
}

TEST_P(OutputTest, ASymlinkStaysAndTheFileBehindItIsReplaced) {
  SIGLIP_SKIP_WITHOUT_PARQUET();
  const auto expected = Uninterrupted();
  const std::string link = folder_ + "link" + GetParam();
  fs::create_symlink("out" + GetParam(), link);
  for (const char* state : {"to nothing yet", "to the finished output"}) {
    const OutputOptions options{.path = link, .failures_path = "", .width = 2};
    EXPECT_EQ(OutputFiles(options)[0], path_) << state;
    auto output = Output::Open(options, {{"dtype", "float32"}}, {{"model", "m"}});
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_TRUE(fs::exists(path_ + ".parts")) << state;
    ASSERT_TRUE(Add(**output, 10).ok());
    ASSERT_TRUE((*output)->Finish().ok());
    EXPECT_TRUE(fs::is_symlink(link)) << state;
    auto files = Files();
    files.erase(link);
    EXPECT_EQ(files, expected) << state;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, OutputTest, testing::Values(".npy", ".jsonl", ".parquet"),
                         [](const auto& format) { return format.param.substr(1); });

TEST(OutputOpenTest, UnknownExtensionsAndMissingFoldersAreNamed) {
  EXPECT_EQ(Output::Open({.path = "a.csv", .failures_path = ""}, {}, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  const auto output = Output::Open({.path = "/nonexistent/a.npy", .failures_path = ""}, {}, {});
  ASSERT_FALSE(output.ok());
  EXPECT_NE(output.status().message().find("/nonexistent/a.npy"), std::string::npos);
}

}  // namespace
}  // namespace siglip::bulk
