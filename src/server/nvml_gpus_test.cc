#include "server/nvml_gpus.h"

#include <dlfcn.h>
#include <stdlib.h>

#include <algorithm>
#include <memory>
#include <regex>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/fake_service.h"
#include "server/metrics.h"

namespace siglip {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Optional;

constexpr char kFirstGpu[] = "GPU-00000000-0000-0000-0000-000000000001";
constexpr char kSecondGpu[] = "GPU-00000000-0000-0000-0000-000000000002";

// On the library of fake_nvml_for_test.cc.
class NvmlGpusTest : public ::testing::Test {
 protected:
  // `fault`, one of those that it knows, is there until Repair.
  static void Break(const char* fault) { ::setenv("SIGLIP_FAKE_NVML", fault, 1); }
  static void Repair() { ::unsetenv("SIGLIP_FAKE_NVML"); }
  ~NvmlGpusTest() override { Repair(); }

  static std::unique_ptr<NvmlGpus> OpenFake() {
    auto gpus = NvmlGpus::Open(SIGLIP_FAKE_NVML_PATH);
    EXPECT_TRUE(gpus.ok()) << gpus.status();
    return gpus.ok() ? *std::move(gpus) : nullptr;
  }

  static std::string Render(std::span<const GpuReading> gpus) {
    FakeService service;
    DoorState state;
    CpuSampler cpu;
    return RenderMetrics(service, state, {}, cpu, gpus);
  }
};

TEST_F(NvmlGpusTest, UnitsAreOurs) {
  const auto gpus = OpenFake();
  ASSERT_NE(gpus, nullptr);
  const std::vector<GpuReading> readings = gpus->Read();
  ASSERT_EQ(readings.size(), 2U);  // the third cannot be opened
  const GpuReading& first = readings[0];
  EXPECT_EQ(first.uuid, kFirstGpu);
  EXPECT_THAT(first.utilization, Optional(0.37));
  EXPECT_THAT(first.memory_total_bytes, Optional(150'754'820'096.0));
  EXPECT_THAT(first.memory_used_bytes, Optional(60'754'820'096.0));
  EXPECT_THAT(first.power_usage_w, Optional(412.345));
  EXPECT_THAT(first.power_limit_w, Optional(700.0));
  EXPECT_THAT(first.energy_j, Optional(1.5));
}

TEST_F(NvmlGpusTest, WhatAGpuRefusesIsLeftOutAlone) {
  const auto gpus = OpenFake();
  ASSERT_NE(gpus, nullptr);
  const std::string text = Render(gpus->Read());
  const std::string second = std::string("{gpu_uuid=\"") + kSecondGpu + "\"} ";
  EXPECT_THAT(text, HasSubstr("\nnv_gpu_memory_total_bytes" + second + "150754820096\n"));
  EXPECT_THAT(text, HasSubstr("\nnv_gpu_memory_used_bytes" + second + "60754820096\n"));
  for (const char* name : {"nv_gpu_utilization", "nv_gpu_power_usage", "nv_gpu_power_limit",
                           "nv_energy_consumption"}) {
    EXPECT_THAT(text, Not(HasSubstr(name + second)));
  }
}

// perf_analyzer's --collect-metrics reads no other form: one label, no exponent.
TEST_F(NvmlGpusTest, LinesAreTritons) {
  const auto gpus = OpenFake();
  ASSERT_NE(gpus, nullptr);
  const std::string text = Render(gpus->Read());
  for (const char* name :
       {"nv_gpu_utilization", "nv_gpu_memory_total_bytes", "nv_gpu_memory_used_bytes",
        "nv_gpu_power_usage", "nv_gpu_power_limit"}) {
    EXPECT_THAT(text, HasSubstr("\n# TYPE " + std::string(name) + " gauge\n"));
  }
  EXPECT_THAT(text, HasSubstr("\n# TYPE nv_energy_consumption counter\n"));
  const std::regex line(
      R"(\n(nv_gpu_\w+|nv_energy_\w+)\{gpu_uuid="GPU-[^"]+"\} \d+(\.\d+)?(?=\n))");
  const auto begin = std::sregex_iterator(text.begin(), text.end(), line);
  EXPECT_EQ(std::distance(begin, std::sregex_iterator()), 8) << text;
  // Nor is there a line of another form.
  EXPECT_EQ(std::count(text.begin(), text.end(), '{') - std::ranges::count(Render({}), '{'), 8)
      << text;
}

TEST_F(NvmlGpusTest, ALostGpuHasNoLinesUntilItIsBack) {
  const auto gpus = OpenFake();
  ASSERT_NE(gpus, nullptr);
  Break("lost");
  std::string text = Render(gpus->Read());
  EXPECT_THAT(text, Not(HasSubstr(kFirstGpu)));
  EXPECT_THAT(text, HasSubstr(kSecondGpu));
  EXPECT_THAT(text, Not(HasSubstr("nv_gpu_utilization")));  // no family without members
  Repair();
  EXPECT_THAT(Render(gpus->Read()), HasSubstr(kFirstGpu));
}

TEST_F(NvmlGpusTest, EnergyNeverFalls) {
  const auto gpus = OpenFake();
  ASSERT_NE(gpus, nullptr);
  EXPECT_THAT(gpus->Read()[0].energy_j, Optional(1.5));
  EXPECT_THAT(gpus->Read()[0].energy_j, Optional(3.0));
  Break("reset");
  EXPECT_THAT(gpus->Read()[0].energy_j, Optional(3.0));
  Repair();
  EXPECT_THAT(gpus->Read()[0].energy_j, Optional(4.5));
}

TEST_F(NvmlGpusTest, WithoutNvmlThereIsAReasonAndNoLine) {
  const auto reason = [](const char* library) {
    return std::string(NvmlGpus::Open(library).status().message());
  };
  EXPECT_THAT(reason("libsiglip-no-such.so.1"), HasSubstr("libsiglip-no-such.so.1"));
  EXPECT_THAT(reason("libc.so.6"), HasSubstr("libc.so.6: expected nvml"));
  Break("no_driver");
  EXPECT_EQ(reason(SIGLIP_FAKE_NVML_PATH), "nvmlInit_v2: error 9 of NVML");
  EXPECT_THAT(Render({}), Not(HasSubstr("gpu")));
}

TEST_F(NvmlGpusTest, TheLibraryIsShutDown) {
  constexpr int kUninitialized = 1;
  void* const library = ::dlopen(SIGLIP_FAKE_NVML_PATH, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << ::dlerror();
  const auto count =
      reinterpret_cast<int (*)(unsigned*)>(::dlsym(library, "nvmlDeviceGetCount_v2"));
  unsigned gpus_there = 0;
  {
    const auto gpus = OpenFake();
    EXPECT_EQ(count(&gpus_there), 0);
  }
  EXPECT_EQ(count(&gpus_there), kUninitialized);
  ::dlclose(library);
}

}  // namespace
}  // namespace siglip
