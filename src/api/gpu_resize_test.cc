// What a GPU does for --gpu-resize, on the CPU: its plans and its kernels' arithmetic, against
// src/image's resize, bit for bit.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <tuple>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/cuda/host_resizer_for_test.h"
#include "image/noise_for_test.h"
#include "image/preprocess.h"

namespace siglip {
namespace {

using cuda::HostResizer;
using testing::HasSubstr;

PreprocessOptions To(int image_size, Resample filter = Resample::kBicubic,
                     PillowVersion pillow = PillowVersion::k13) {
  PreprocessOptions options;
  options.image_size = image_size;
  options.resample = filter;
  options.pillow = pillow;
  return options;
}

// Of the same picture by both; whether the resizer did its part.
bool Compare(const PreprocessOptions& options, const RgbImage& image) {
  HostResizer resizer(options.image_size);
  const auto want = Preprocessor(options).Resize(image);
  const auto got = Preprocessor(options, &resizer).Resize(image);
  EXPECT_TRUE(want.ok() && got.ok()) << want.status() << got.status();
  if (!want.ok() || !got.ok()) return false;
  EXPECT_EQ(std::tuple(got->width, got->height), std::tuple(want->width, want->height));
  EXPECT_EQ(std::memcmp(got->pixels.data(), want->pixels.data(), want->pixels.size()), 0)
      << image.width << "x" << image.height << " -> " << options.image_size;
  return resizer.resized == 1;
}

TEST(GpuResize, EqualsTheCpuInEveryShape) {
  const std::vector<std::tuple<int, int, int>> shapes = {
      {1, 1, 7},       {1, 50, 9},    {50, 1, 9},     {1, 300, 16},      {300, 1, 16},
      {2, 2, 3},       {17, 13, 17},  {13, 17, 17},   {17, 40, 17},      {40, 17, 17},
      {100, 75, 32},   {30, 200, 32}, {200, 30, 32},  {61, 59, 64},      {64, 64, 1},
      {5, 100, 3},     {3, 100, 5},   {129, 127, 33}, {386, 395, 384},   {500, 375, 384},
      {375, 500, 384}, {16384, 2, 8}, {2, 16384, 8},  {4000, 3000, 224}, {500, 375, 512}};
  for (const auto& [width, height, side] : shapes) {
    const RgbImage image = Noise(width, height, static_cast<std::uint32_t>(width * 1000 + height));
    for (const Resample filter : {Resample::kBilinear, Resample::kBicubic}) {
      for (const PillowVersion pillow : {PillowVersion::k12, PillowVersion::k13}) {
        EXPECT_TRUE(Compare(To(side, filter, pillow), image)) << width << "x" << height;
      }
    }
  }
}

TEST(GpuResize, EqualsTheCpuInRandomShapes) {
  std::minstd_rand random(20261130);
  for (int i = 0; i < 200; ++i) {
    const int width = 1 + static_cast<int>(random() % 90);
    const int height = 1 + static_cast<int>(random() % 160);
    const int side = 1 + static_cast<int>(random() % 60);
    if (width == side && height == side) continue;
    const Resample filter = random() % 2 == 0 ? Resample::kBilinear : Resample::kBicubic;
    EXPECT_TRUE(
        Compare(To(side, filter), Noise(width, height, static_cast<std::uint32_t>(random()))));
  }
}

TEST(GpuResize, WhatNeedsNoPassIsTheCpus) { EXPECT_FALSE(Compare(To(32), Noise(32, 32, 1))); }

TEST(GpuResize, WhatIsTooLargeIsTheCpus) {
  EXPECT_FALSE(Compare(To(8), Noise(static_cast<int>(cuda::kMaxResizeSide) + 1, 1, 1)));
  EXPECT_FALSE(Compare(To(8), Noise(4097, 4096, 1)));
  EXPECT_TRUE(cuda::IsResizable(4096, 4096));
  EXPECT_FALSE(cuda::IsResizable(4096, 4097));
  EXPECT_FALSE(cuda::IsResizable(0, 5));
  EXPECT_FALSE(cuda::IsResizable(std::int64_t{1} << 40, std::int64_t{1} << 40));
}

TEST(GpuResize, WhatComesWhileThePlacesAreBusyIsTheCpus) {
  HostResizer resizer(32);
  resizer.busy = true;
  const RgbImage image = Noise(50, 40, 1);
  const auto want = Preprocessor(To(32)).Resize(image);
  const auto got = Preprocessor(To(32), &resizer).Resize(image);
  ASSERT_TRUE(want.ok() && got.ok());
  EXPECT_EQ(std::memcmp(got->pixels.data(), want->pixels.data(), want->pixels.size()), 0);
}

TEST(GpuResize, EveryPictureThatIsTakenFits) {
  for (const int side : {32, 224, 256, 384, 512, 1024}) {
    const cuda::ResizeCapacity capacity = cuda::CapacityFor(side);
    const std::int64_t longest = cuda::kMaxResizeSide;
    const std::int64_t other = cuda::kMaxResizePixels / longest;
    const std::vector<std::tuple<std::int64_t, std::int64_t>> sizes = {
        {longest, other}, {other, longest}, {4096, 4096}, {longest, 1},     {1, longest},
        {side - 1, 1},    {1, side - 1},    {1, 1},       {side + 1, other}};
    for (const auto& [width, height] : sizes) {
      ASSERT_TRUE(cuda::IsResizable(width, height));
      for (const bool vertical_first : {false, true}) {
        // As many taps as Pillow reserves.
        const auto pass = [side](std::int64_t from) {
          ResizePass taps;
          taps.in_size = static_cast<std::int32_t>(from);
          taps.out_size = side;
          const double scale = std::max(1.0, static_cast<double>(from) / side);
          taps.num_taps = 2 * static_cast<std::int32_t>(std::ceil(2 * scale)) + 1;
          return taps;
        };
        const ResizePass horizontal = pass(width), vertical = pass(height);
        EXPECT_TRUE(cuda::PlanResize({.rgb = nullptr,
                                      .width = static_cast<std::int32_t>(width),
                                      .height = static_cast<std::int32_t>(height),
                                      .horizontal = &horizontal,
                                      .vertical = &vertical,
                                      .vertical_first = vertical_first,
                                      .out = nullptr},
                                     capacity))
            << width << "x" << height << " -> " << side;
      }
    }
  }
}

TEST(GpuResize, PreprocessRgbEqualsTheCpuAndTellsTimes) {
  HostResizer resizer(32);
  const RgbImage image = Noise(50, 40, 3);
  const Preprocessor cpu(To(32)), gpu(To(32), &resizer);
  std::vector<float> want(cpu.pixel_values()), got(want.size());
  ASSERT_TRUE(cpu.PreprocessRgb(image.pixels.data(), 50, 40, want.data()).ok());
  StageTimes times;
  ASSERT_TRUE(gpu.PreprocessRgb(image.pixels.data(), 50, 40, got.data(), times).ok());
  EXPECT_EQ(got, want);
  EXPECT_EQ(resizer.resized, 1);
  EXPECT_EQ(times.decode_ns, 0);
  EXPECT_GT(times.resize_ns, 0);
  EXPECT_GT(times.normalize_ns, 0);
}

TEST(GpuResize, ALostDeviceFailsThePicture) {
  HostResizer resizer(32);
  resizer.error = absl::InternalError("CUDA: resizing: lost");
  EXPECT_EQ(Preprocessor(To(32), &resizer).Resize(Noise(50, 40, 1)).status(), resizer.error);
}

TEST(GpuResize, TheCheckOfAStartPassesInEveryPlace) {
  for (const PillowVersion pillow : {PillowVersion::k12, PillowVersion::k13}) {
    HostResizer resizer(64);
    const absl::Status status = CheckResizer(To(64, Resample::kBilinear, pillow), resizer);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(resizer.resized, 5 * resizer.num_places());
  }
}

TEST(GpuResize, TheCheckOfAStartFindsOneWrongByte) {
  HostResizer resizer(64);
  resizer.break_byte = 3 * 64 * 64 - 1;
  const absl::Status status = CheckResizer(To(64), resizer);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("GPU resize of 86x65 to 64x64: expected the CPU's pixels, got others"));
}

TEST(GpuResize, TheCheckOfAStartFindsADeviceThatDoesNothing) {
  HostResizer resizer(64);
  resizer.busy = true;
  EXPECT_THAT(std::string(CheckResizer(To(64), resizer).message()), HasSubstr("got none"));
}

}  // namespace
}  // namespace siglip
