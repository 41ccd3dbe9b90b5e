#include "engine/cuda/devices.h"

#include <gtest/gtest.h>

namespace siglip {
namespace {

TEST(GpuDevicesTest, EveryListedDeviceIsDescribed) {
  const auto devices = ListGpuDevices();
  if (!devices.ok()) GTEST_SKIP() << "SIGLIP_TEST_SKIPPED: " << devices.status().message();
  if (devices->empty()) GTEST_SKIP() << "SIGLIP_TEST_SKIPPED: this machine has no GPU";
  for (const GpuDevice& device : *devices) {
    EXPECT_FALSE(device.name.empty());
    EXPECT_GE(device.compute_capability, 50);
    EXPECT_GT(device.memory_bytes, 0);
  }
}

}  // namespace
}  // namespace siglip
