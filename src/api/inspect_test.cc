#include "api/inspect.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace siglip {
namespace {

using testing::HasSubstr;

constexpr const char* kDemo = "models/demo";

class InspectTest : public testing::Test {
 protected:
  InspectTest() : folder_(testing::TempDir() + "inspect_test") {
    std::filesystem::remove_all(folder_);
    std::filesystem::copy(kDemo, folder_);
  }
  const std::string folder_;
};

TEST_F(InspectTest, ACompleteFolderHasFactsAndNoProblems) {
  const InspectReport report = InspectCheckpoint(folder_);
  EXPECT_TRUE(report.ok()) << report.Text();
  EXPECT_THAT(report.Text(), HasSubstr("vision tower"));
  EXPECT_THAT(report.Text(), HasSubstr("complete: it can be served"));
  EXPECT_THAT(report.Json(), HasSubstr("\"complete\": true"));
}

TEST_F(InspectTest, ThePreprocessorOfTransformers5IsFound) {
  std::filesystem::remove(folder_ + "/preprocessor_config.json");
  EXPECT_THAT(InspectCheckpoint(folder_).Text(),
              HasSubstr("expected preprocessor_config.json or processor_config.json"));
  std::ofstream(folder_ + "/processor_config.json")
      << R"({"image_processor": {"resample": 2, "size": {"height": 48, "width": 48}}})";
  const InspectReport report = InspectCheckpoint(folder_);
  EXPECT_TRUE(report.ok()) << report.Text();
  EXPECT_THAT(report.Text(), HasSubstr("48 px, bilinear"));
}

TEST_F(InspectTest, EveryProblemIsListed) {
  std::filesystem::remove(folder_ + "/spiece.model");
  std::filesystem::resize_file(folder_ + "/model.safetensors", 1000);
  std::ofstream(folder_ + "/preprocessor_config.json") << "{\"resample\": 9}";
  const InspectReport report = InspectCheckpoint(folder_);
  EXPECT_FALSE(report.ok());
  EXPECT_THAT(report.Text(), HasSubstr("spiece.model"));
  EXPECT_THAT(report.Text(), HasSubstr("resample"));
  EXPECT_THAT(report.Text(), HasSubstr("vision tower"));  // what is good is told all the same
}

TEST(InspectReportTest, AMissingFolderIsAProblem) {
  EXPECT_THAT(InspectCheckpoint("/nonexistent").Text(), HasSubstr("no such folder"));
}

}  // namespace
}  // namespace siglip
