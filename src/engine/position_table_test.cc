// The resized table of positions against torch's, which is float32
// (tests/golden/naflex/golden.json, by tools/make_naflex_goldens.py).

#include "engine/position_table.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace siglip {
namespace {

std::vector<float> Resize(const std::vector<float>& table, std::int64_t side, std::int64_t rows,
                          std::int64_t columns, int threads) {
  ThreadTeam team(threads);
  const std::int64_t width = static_cast<std::int64_t>(table.size()) / (side * side);
  std::vector<float> to(static_cast<std::size_t>(rows * columns * width), NAN);
  ResizePositions(team, {table.data(), side, width, rows, columns}, to.data());
  return to;
}

TEST(PositionTableTest, IsNearTorchs) {
  const auto golden =
      nlohmann::json::parse(std::ifstream("tests/golden/naflex/golden.json"))["positions"];
  const auto table = golden["table"].get<std::vector<float>>();
  const float largest = std::abs(*std::max_element(
      table.begin(), table.end(), [](float a, float b) { return std::abs(a) < std::abs(b); }));
  ASSERT_GE(golden["grids"].size(), 9u);
  for (const auto& grid : golden["grids"]) {
    const auto want = grid["values"].get<std::vector<float>>();
    const auto got = Resize(table, golden["side"], grid["rows"], grid["columns"], 3);
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i) {
      // torch rounds weights, products and sums of two passes of up to 14 taps, each by 6e-8.
      EXPECT_NEAR(got[i], want[i], 5e-7f * largest) << grid["rows"] << "x" << grid["columns"];
    }
  }
}

TEST(PositionTableTest, AnEqualSizeIsTheTable) {
  std::vector<float> table(9 * 200);
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = 1 / static_cast<float>(i + 3);
  EXPECT_EQ(Resize(table, 3, 3, 3, 2), table);
}

// torch's own one column is wrong (tools/make_random_checkpoint.py, mend_interpolation).
TEST(PositionTableTest, AColumnIsARowOfTheTableOnItsSide) {
  constexpr std::int64_t kSide = 5;
  std::vector<float> table, on_its_side;
  for (std::int64_t i = 0; i < kSide * kSide; ++i) {
    table.push_back(1 / static_cast<float>(i + 3));
    on_its_side.push_back(1 / static_cast<float>(i % kSide * kSide + i / kSide + 3));
  }
  const std::vector<float> column = Resize(table, kSide, 40, 1, 1);
  EXPECT_EQ(column, Resize(on_its_side, kSide, 1, 40, 1));
  EXPECT_NE(column.front(), column.back());
}

TEST(PositionTableTest, ThreadsDoNotChangeABit) {
  std::vector<float> table(16 * 129);
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = 1 / static_cast<float>(i + 3);
  EXPECT_EQ(Resize(table, 4, 7, 3, 1), Resize(table, 4, 7, 3, 4));
}

TEST(PositionTableTest, AConstantStaysWhatItIs) {
  const std::vector<float> table(25, 0.75f);
  for (const auto& [rows, columns] : {std::pair{1, 1}, {2, 9}, {40, 3}}) {
    for (const float value : Resize(table, 5, rows, columns, 1)) EXPECT_EQ(value, 0.75f);
  }
}

}  // namespace
}  // namespace siglip
