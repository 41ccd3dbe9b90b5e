#include "engine/cuda/device_flag.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace siglip {
namespace {

using Kind = DeviceChoice::Kind;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(DeviceFlagTest, NamesDevices) {
  EXPECT_EQ(ParseDevice("auto")->kind, Kind::kAuto);
  EXPECT_EQ(ParseDevice("cpu")->kind, Kind::kCpu);
  EXPECT_EQ(ParseDevice("cuda")->kind, Kind::kCuda);
  EXPECT_THAT(ParseDevice("cuda")->gpus, ElementsAre(0));
  EXPECT_THAT(ParseDevice("cuda:3")->gpus, ElementsAre(3));
  EXPECT_THAT(ParseDevice("cuda:1,0,12")->gpus, ElementsAre(1, 0, 12));
}

TEST(DeviceFlagTest, EverythingElseIsRefused) {
  for (const std::string bad :
       {"", "CPU", "gpu", "cuda:", "cuda:a", "cuda:-1", "cuda:+1", "cuda: 1", "cuda:0,", "cuda:,0",
        "cuda:0,0", "cuda:1024", "cuda0", "cuda:99999999999999999999"}) {
    const auto choice = ParseDevice(bad);
    ASSERT_FALSE(choice.ok()) << bad;
    EXPECT_EQ(choice.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(choice.status().message()), HasSubstr("got " + bad));
  }
}

}  // namespace
}  // namespace siglip
