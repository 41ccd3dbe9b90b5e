#include "engine/cuda/algorithm_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace siglip::cuda {
namespace {

using testing::HasSubstr;

constexpr char kDevice[] = "NVIDIA H200, driver 13000, cublasLt 130100";

std::string Path() { return testing::TempDir() + "/algorithms"; }
std::string Contents() {
  std::stringstream text;
  text << std::ifstream(Path(), std::ios::binary).rdbuf();
  return text.str();
}
void Write(const std::string& text) { std::ofstream(Path(), std::ios::binary) << text; }

FoundAlgorithm Algorithm(std::uint64_t seed) {
  FoundAlgorithm algorithm;
  for (std::uint64_t& word : algorithm.words) word = seed *= 0x9E3779B97F4A7C15;
  algorithm.microseconds = 12.5;
  return algorithm;
}

class AlgorithmCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove(Path());
    AlgorithmCache cache(kDevice);
    cache.Add("m1 n2 k3", Algorithm(1));
    cache.Add("m4 n5 k6 gelu", Algorithm(2));
    ASSERT_TRUE(cache.changed());
    ASSERT_TRUE(cache.Save(Path()).ok());
  }
};

TEST_F(AlgorithmCacheTest, ComesBackAsItWas) {
  AlgorithmCache cache(kDevice);
  ASSERT_TRUE(cache.Load(Path()).ok());
  EXPECT_FALSE(cache.changed());
  EXPECT_EQ(cache.Find("m1 n2 k3"), Algorithm(1));
  EXPECT_EQ(cache.Find("m4 n5 k6 gelu"), Algorithm(2));
  EXPECT_EQ(cache.Find("m1 n2 k4"), std::nullopt);
  const std::string before = Contents();
  ASSERT_TRUE(cache.Save(Path()).ok());
  EXPECT_EQ(Contents(), before);
}

TEST_F(AlgorithmCacheTest, AnotherDeviceDriverOrLibraryIsNotUsed) {
  AlgorithmCache cache("NVIDIA H200, driver 13000, cublasLt 130101");
  EXPECT_EQ(cache.Load(Path()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(cache.Find("m1 n2 k3"), std::nullopt);
}

TEST_F(AlgorithmCacheTest, NoFileIsNotFound) {
  std::filesystem::remove(Path());
  EXPECT_EQ(AlgorithmCache(kDevice).Load(Path()).code(), absl::StatusCode::kNotFound);
}

TEST_F(AlgorithmCacheTest, EveryTruncationIsRefusedOrHoldsWholeLines) {
  const std::string whole = Contents();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    Write(whole.substr(0, size));
    AlgorithmCache cache(kDevice);
    const absl::Status status = cache.Load(Path());
    if (status.ok()) {
      EXPECT_EQ(whole[size - 1], '\n') << size;
    } else {
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << size;
      EXPECT_EQ(cache.Find("m1 n2 k3"), std::nullopt);
    }
  }
}

TEST_F(AlgorithmCacheTest, DamagedLinesAreNamed) {
  const std::string whole = Contents();
  for (const auto& [from, to] : {std::pair<std::string, std::string>{" = ", " - "},
                                 {" 12.50", " nan"},
                                 {" 12.50", " -1"},
                                 {" 12.50", " 12.50 7"},
                                 {" = ", " = 0"},
                                 {" = ", " = x"}}) {
    std::string text = whole;
    text.replace(text.find(from), from.size(), to);
    Write(text);
    AlgorithmCache cache(kDevice);
    const absl::Status status = cache.Load(Path());
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << to;
    EXPECT_THAT(std::string(status.message()), HasSubstr("algorithms:3: expected")) << to;
  }
}

TEST_F(AlgorithmCacheTest, AFolderThatCannotBeWrittenIsAnError) {
  EXPECT_FALSE(AlgorithmCache(kDevice).Save("/nonexistent/folder/algorithms").ok());
}

}  // namespace
}  // namespace siglip::cuda
