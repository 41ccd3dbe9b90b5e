#include "eval/neighbor_graph.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "eval/nearest.h"

namespace siglip {
namespace {

using ::testing::HasSubstr;

constexpr std::int64_t kRows = 2000;
constexpr std::int64_t kWidth = 24;

std::vector<float> Random(std::int64_t rows, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(rows * kWidth));
  for (float& value : values) value = normal(random);
  return values;
}

StoredRows Stored(const std::vector<float>& values) {
  return {{{reinterpret_cast<const std::byte*>(values.data()), false,
            static_cast<std::int64_t>(values.size()) / kWidth}},
          kWidth};
}

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

class NeighborGraphTest : public testing::Test {
 protected:
  std::unique_ptr<NeighborGraph> Build(const StoredRows& rows, int threads = 1) {
    ThreadTeam team(threads);
    std::int64_t told = 0;
    auto graph = NeighborGraph::Build(rows, {.links = 8, .ef_construction = 60}, team,
                                      [&told](std::int64_t added) { told += added; });
    EXPECT_TRUE(graph.ok()) << graph.status();
    EXPECT_EQ(told, rows.rows());
    return *std::move(graph);
  }

  // Share of the true ten nearest among the candidates.
  double Recall(const NeighborGraph& graph, std::span<const float> values, std::int64_t count) {
    const std::vector<float> queries = Random(50, 2);
    ThreadTeam team(1);
    const auto exact = NearestByCosine(team, MemoryRows(values, kWidth), queries, {});
    EXPECT_TRUE(exact.ok());
    int found = 0;
    for (std::int64_t q = 0; q < 50; ++q) {
      const auto candidates = graph.Candidates(
          std::span(queries).subspan(static_cast<std::size_t>(q * kWidth), kWidth), count);
      EXPECT_TRUE(candidates.ok());
      EXPECT_TRUE(std::is_sorted(candidates->begin(), candidates->end()));
      for (const Neighbor& neighbor : exact->Of(q)) {
        found += std::binary_search(candidates->begin(), candidates->end(), neighbor.row) ? 1 : 0;
      }
    }
    return found / 500.0;
  }

  const std::vector<float> values_ = Random(kRows, 1);
};

TEST_F(NeighborGraphTest, FindsNearlyAllAndMoreWhenItLooksLonger) {
  for (const int threads : {1, 3}) {
    const auto graph = Build(Stored(values_), threads);
    const double little = Recall(*graph, values_, 10);
    const double much = Recall(*graph, values_, 400);
    EXPECT_LT(little, 0.95);
    EXPECT_GT(much, 0.99);
    EXPECT_EQ(graph->Candidates(std::span(values_).first(kWidth), kRows * 2)->size(),
              static_cast<std::size_t>(kRows));
  }
}

TEST_F(NeighborGraphTest, ReadsBackTheSameGraphWhateverThreadsBuiltIt) {
  EXPECT_EQ(Build(Stored(values_))->Serialize(), Build(Stored(values_))->Serialize());
  const auto graph = Build(Stored(values_), 3);
  const std::string text = graph->Serialize();
  const auto parsed = NeighborGraph::Parse(Bytes(text), Stored(values_));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ((*parsed)->Serialize(), text);
  EXPECT_EQ((*parsed)->links(), 8);
  for (const std::int64_t row : {0, 77, 1999}) {
    const auto query = std::span(values_).subspan(static_cast<std::size_t>(row * kWidth), kWidth);
    EXPECT_EQ(*graph->Candidates(query, 30), *(*parsed)->Candidates(query, 30));
  }
}

TEST_F(NeighborGraphTest, PartsAndHalfNumbersAreTheSameRows) {
  // Numbers that binary16 holds: 1 and -1, in a pattern of their own for each row.
  std::vector<float> floats(300 * kWidth);
  std::vector<std::uint16_t> halves(floats.size());
  std::mt19937 random(3);
  for (std::size_t i = 0; i < floats.size(); ++i) {
    floats[i] = random() % 2 == 0 ? 1.0f : -1.0f;
    halves[i] = floats[i] > 0 ? 0x3c00 : 0xbc00;
  }
  const auto* const half_bytes = reinterpret_cast<const std::byte*>(halves.data());
  const auto* const float_bytes = reinterpret_cast<const std::byte*>(floats.data());
  const StoredRows mixed = {{{half_bytes, true, 100},
                             {float_bytes + 100 * kWidth * 4, false, 150},
                             {half_bytes + 150 * kWidth * 2, true, 300}},
                            kWidth};
  // Sums of ones are exact in any order.
  EXPECT_EQ(Build(mixed)->Serialize(), Build(Stored(floats))->Serialize());
  const auto query = std::span<const float>(floats).first(kWidth);
  EXPECT_EQ(*Build(mixed)->Candidates(query, 20), *Build(Stored(floats))->Candidates(query, 20));
}

TEST_F(NeighborGraphTest, ManyCopiesOfARowHideNoOthers) {
  // Blank pictures and placeholders: 3000 copies, before, among and after the others.
  std::vector<float> values;
  const auto add = [&values](std::span<const float> rows) {
    values.insert(values.end(), rows.begin(), rows.end());
  };
  const auto others = std::span(values_);
  const std::vector<float> copied = Random(1, 7);
  for (std::int64_t row = 0; row < kRows; ++row) {
    if (row % 2 == 0 || row == kRows - 1) add(copied);
    if (row == 0) {
      for (int i = 0; i < 1000; ++i) add(copied);
    }
    add(others.subspan(static_cast<std::size_t>(row * kWidth), kWidth));
  }
  for (int i = 0; i < 1000; ++i) add(copied);
  for (const int threads : {1, 3}) {
    const auto graph = Build(Stored(values), threads);
    const auto parsed = NeighborGraph::Parse(Bytes(graph->Serialize()), Stored(values));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_GT(Recall(**parsed, values, 400), 0.98);
    const auto found = *(*parsed)->Candidates(copied, 20);
    EXPECT_GE(found.size(), 20u);
    // The first of the copies, as an exact search answers.
    for (std::int64_t row = 0; row < 20; ++row) {
      EXPECT_TRUE(std::binary_search(found.begin(), found.end(), row)) << row;
    }
  }
}

TEST_F(NeighborGraphTest, AClusterOfNearlyEqualRowsHidesNoOthers) {
  // 4000 versions of one picture: their links are filled with each other.
  std::vector<float> values = Random(1, 7);
  std::vector<float> noise = Random(4000, 8);
  for (std::size_t i = 0; i < noise.size(); ++i) noise[i] = values[i % kWidth] + 1e-3f * noise[i];
  values = noise;
  values.insert(values.end(), values_.begin(), values_.end());
  const auto graph = Build(Stored(values), 2);
  EXPECT_GT(Recall(*graph, values, 400), 0.9);
  EXPECT_EQ(graph->Candidates(std::span(values_).first(kWidth), 6000)->size(), 6000u);
}

TEST_F(NeighborGraphTest, ZerosAndSingleRowsAreRowsLikeOthers) {
  std::vector<float> values = Random(3, 4);
  std::fill_n(values.begin() + kWidth, kWidth, 0.0f);
  EXPECT_EQ(*Build(Stored(values))->Candidates(std::span<const float>(values).first(kWidth), 9),
            (std::vector<std::int64_t>{0, 1, 2}));
  values.resize(kWidth);
  const auto one = Build(Stored(values));
  EXPECT_EQ(*one->Candidates(values, 1), std::vector<std::int64_t>{0});
  EXPECT_TRUE(NeighborGraph::Parse(Bytes(one->Serialize()), Stored(values)).ok());
}

TEST_F(NeighborGraphTest, HugeAndTinyRowsHaveTheirLength) {
  // float32 holds no product of two of the last four; the last are denormal.
  for (const float scale : {1e18f, 1e-18f, 1e30f, 1e36f, 1e-30f, 1e-41f}) {
    SCOPED_TRACE(scale);
    std::vector<float> values = Random(400, 5);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] *= i / kWidth % 2 == 0 ? scale : 1;
    const auto graph = Build(Stored(values));
    EXPECT_GT(Recall(*graph, values, 100), 0.98);
    for (const std::int64_t row : {0, 1, 2}) {
      const auto query =
          std::span<const float>(values).subspan(static_cast<std::size_t>(row * kWidth), kWidth);
      EXPECT_THAT(*graph->Candidates(query, 5), testing::Contains(row));
    }
    const auto parsed = NeighborGraph::Parse(Bytes(graph->Serialize()), Stored(values));
    EXPECT_TRUE(parsed.ok()) << parsed.status();
  }
}

TEST_F(NeighborGraphTest, WhatIsNotFiniteIsRefused) {
  std::vector<float> values = values_;
  values[1234 * kWidth + 5] = std::numeric_limits<float>::infinity();
  ThreadTeam team(2);
  const auto graph = NeighborGraph::Build(Stored(values), {}, team, [](std::int64_t) {});
  EXPECT_EQ(graph.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(graph.status().message()), HasSubstr("row 1234"));
  std::vector<float> query(kWidth, 1);
  query[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(Build(Stored(values_))->Candidates(query, 1).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(NeighborGraph::Build({{}, kWidth}, {}, team, [](std::int64_t) {}).ok());
}

// Cut anywhere, longer, for other rows, or with a number that leads out of the graph.
TEST_F(NeighborGraphTest, DamagedGraphsAreRefused) {
  const std::vector<float> values = Random(200, 6);
  const std::string text = Build(Stored(values))->Serialize();
  const auto code = [&values](const std::string& damaged) {
    return NeighborGraph::Parse(Bytes(damaged), Stored(values)).status().code();
  };
  ASSERT_EQ(code(text), absl::StatusCode::kOk);
  for (std::size_t size = 0; size < text.size(); size += size < 100 ? 1 : 997) {
    EXPECT_EQ(code(text.substr(0, size)), absl::StatusCode::kDataLoss) << size;
  }
  EXPECT_EQ(code(text + "x"), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(NeighborGraph::Parse(Bytes(text), Stored(Random(199, 6))).ok());
  EXPECT_FALSE(NeighborGraph::Parse(Bytes(text), Stored(Random(201, 6))).ok());
  EXPECT_FALSE(NeighborGraph::Parse(Bytes(text), Stored({})).ok());
  const auto with = [&text](std::size_t at, std::uint32_t value) {
    std::string damaged = text;
    std::memcpy(damaged.data() + at, &value, sizeof(value));
    return damaged;
  };
  constexpr std::size_t kPoints = 16, kNorms = kPoints + 200 * 4, kLayers = kNorms + 200 * 4,
                        kLists = kLayers + 200;
  EXPECT_EQ(code(with(0, 1)), absl::StatusCode::kDataLoss);                  // links
  EXPECT_EQ(code(with(0, 0xffffffff)), absl::StatusCode::kDataLoss);         // links
  EXPECT_EQ(code(with(4, 0)), absl::StatusCode::kDataLoss);                  // ef_construction
  EXPECT_EQ(code(with(8, 200)), absl::StatusCode::kDataLoss);                // entry
  EXPECT_EQ(code(with(12, 256)), absl::StatusCode::kDataLoss);               // top layer
  EXPECT_EQ(code(with(kPoints, 1)), absl::StatusCode::kDataLoss);            // before there is one
  EXPECT_EQ(code(with(kPoints + 4, 2)), absl::StatusCode::kDataLoss);        // likewise
  EXPECT_EQ(code(with(kPoints + 199 * 4, 0)), absl::StatusCode::kDataLoss);  // one point less
  EXPECT_EQ(code(with(kNorms, 0x7fc00000)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code(with(kNorms, 0xbf800000)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code(with(kLayers, 0x09090909)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code(with(kLists, 17)), absl::StatusCode::kDataLoss);  // of at most 16
  EXPECT_EQ(code(with(kLists + 4, 200)), absl::StatusCode::kDataLoss);
  // The last list is of an upper layer: a row of the lowest alone is no neighbour there.
  std::uint32_t lowest = 0;
  while (text[kLayers + lowest] != 0) ++lowest;
  EXPECT_EQ(
      code(with(text.size() - 36, 1)
               .replace(text.size() - 32, 4,
                        [&] { return std::string(reinterpret_cast<const char*>(&lowest), 4); }())),
      absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace siglip
