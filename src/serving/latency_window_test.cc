#include "serving/latency_window.h"

#include <memory>

#include <gtest/gtest.h>

namespace siglip {
namespace {

constexpr std::int64_t kMinute = 60'000'000'000;

TEST(LatencyWindow, QuantilesAreAtMostASixteenthTooLarge) {
  for (const std::uint64_t us : {0UL, 1UL, 15UL, 16UL, 17UL, 1000UL, 123'456UL, 3'000'000'000UL}) {
    LatencyWindow window;
    window.Record(us * 1000, 1);
    const double told = window.QuantileNs(0.5, 1) / 1000;
    EXPECT_GE(told, static_cast<double>(us)) << us;
    EXPECT_LE(told, static_cast<double>(us) * (1 + 1.0 / 16)) << us;
  }
}

TEST(LatencyWindow, QuantilesAreThoseOfTheSortedDurations) {
  LatencyWindow window;
  for (std::uint64_t us = 1; us <= 10; ++us) window.Record(us * 1000, 1);
  EXPECT_EQ(window.QuantileNs(0.1, 1), 1000);
  EXPECT_EQ(window.QuantileNs(0.5, 1), 5000);
  EXPECT_EQ(window.QuantileNs(0.91, 1), 10000);
  EXPECT_EQ(window.QuantileNs(1, 1), 10000);
}

TEST(LatencyWindow, WhatIsOldGoesAndNothingIsZero) {
  LatencyWindow window;
  EXPECT_EQ(window.QuantileNs(0.5, 1), 0);
  window.Record(1000, 1);
  window.Record(9000, kMinute + 1);
  EXPECT_EQ(window.QuantileNs(0.5, kMinute + 2), 1000) << "the minute before counts";
  EXPECT_EQ(window.QuantileNs(0.5, 2 * kMinute + 2), 9000);
  EXPECT_EQ(window.QuantileNs(0.5, 3 * kMinute + 2), 0);
  window.Record(5000, 9 * kMinute);
  EXPECT_EQ(window.QuantileNs(0.01, 9 * kMinute), 5000);
}

TEST(LatencyWindow, TheLongestAreInTheLastBucket) {
  LatencyWindow window;
  window.Record(UINT64_MAX, 1);
  EXPECT_GT(window.QuantileNs(0.5, 1), 3600e9);
}

}  // namespace
}  // namespace siglip
