#include "cli/job_engine.h"

#include <gtest/gtest.h>

namespace siglip::cli {
namespace {

TEST(JobEngineTest, ThreadsAreLeftOut) {
  EXPECT_EQ(JobEngine("cpu, avx512, fp32, 1 thread"), "cpu, avx512, fp32");
  EXPECT_EQ(JobEngine("cpu, avx512, int16, 16 threads"), "cpu, avx512, int16");
}

TEST(JobEngineTest, NumbersAndCountOfGpusAreLeftOut) {
  const std::string one = "NVIDIA H200 (sm_90), bf16, own attention or cuDNN 9.19";
  EXPECT_EQ(JobEngine("NVIDIA H200 (cuda:0, sm_90), bf16, own attention or cuDNN 9.19"), one);
  EXPECT_EQ(JobEngine("NVIDIA H200 (cuda:11, sm_90), bf16, own attention or cuDNN 9.19"), one);
  EXPECT_EQ(JobEngine("NVIDIA H200 (cuda:0, sm_90) + NVIDIA H200 (cuda:1, sm_90), bf16, own "
                      "attention or cuDNN 9.19"),
            one);
}

TEST(JobEngineTest, KindsOfGpusArePartOfTheJob) {
  const std::string both = "NVIDIA A100 (sm_80) + NVIDIA H200 (sm_90), fp16, own attention";
  EXPECT_EQ(JobEngine("NVIDIA H200 (cuda:0, sm_90) + NVIDIA A100 (cuda:1, sm_80) + NVIDIA H200 "
                      "(cuda:2, sm_90), fp16, own attention"),
            both);
  EXPECT_EQ(JobEngine("NVIDIA A100 (cuda:0, sm_80) + NVIDIA H200 (cuda:1, sm_90), fp16, own "
                      "attention"),
            both);
  EXPECT_NE(JobEngine("NVIDIA H200 (cuda:0, sm_90), fp16, own attention"), both);
}

}  // namespace
}  // namespace siglip::cli
