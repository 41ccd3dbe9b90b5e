#include "eval/nearest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/test_isa.h"

namespace siglip {
namespace {

// Plain float64 search over everything.
std::vector<Neighbor> BruteForce(const std::vector<float>& train, const float* query,
                                 std::int64_t width, std::int64_t k) {
  std::vector<Neighbor> all;
  for (std::size_t row = 0; row * width < train.size(); ++row) {
    long double dot = 0, a = 0, b = 0;
    for (std::int64_t i = 0; i < width; ++i) {
      const long double x = query[i], y = train[row * width + i];
      dot += x * y, a += x * x, b += y * y;
    }
    const bool zero = a == 0 || b == 0;
    all.push_back({static_cast<std::int64_t>(row),
                   zero ? 1 : static_cast<double>(1 - dot / std::sqrt(a * b))});
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const Neighbor& x, const Neighbor& y) { return x.distance < y.distance; });
  all.resize(static_cast<std::size_t>(k));
  return all;
}

std::vector<float> Random(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// Rows that have to be read, as those of several files.
class RowsToRead final : public RowSource {
 public:
  explicit RowsToRead(const MemoryRows& rows) : rows_(rows) {}
  std::int64_t rows() const override { return rows_.rows(); }
  std::int64_t width() const override { return rows_.width(); }
  absl::Status Read(std::int64_t first, std::int64_t count, float* out) const override {
    return rows_.Read(first, count, out);
  }

 private:
  const MemoryRows& rows_;
};

// Rows of binary16: -1, 0 and 1 in a pattern of their own for each, and beside them the same as
// floats.
class HalfRows final : public RowSource {
 public:
  HalfRows(std::int64_t rows, std::int64_t width) : width_(width) {
    std::mt19937 random(11);
    for (std::int64_t i = 0; i < rows * width; ++i) Add(static_cast<int>(random() % 3) - 1);
  }
  void Set(std::int64_t row, std::int64_t i, std::uint16_t bits, float value) {
    halves_[static_cast<std::size_t>(row * width_ + i)] = bits;
    floats_[static_cast<std::size_t>(row * width_ + i)] = value;
  }
  const std::vector<float>& floats() const { return floats_; }
  std::int64_t rows() const override { return static_cast<std::int64_t>(halves_.size()) / width_; }
  std::int64_t width() const override { return width_; }
  absl::Status Read(std::int64_t first, std::int64_t count, float* out) const override {
    return MemoryRows(floats_, width_).Read(first, count, out);
  }
  const std::uint16_t* LendHalves(std::int64_t first, std::int64_t /*count*/) const override {
    // As where a block is of two files.
    return first % 128 == 64 ? nullptr : halves_.data() + first * width_;
  }

 private:
  void Add(int value) {
    halves_.push_back(value == 0 ? 0 : value > 0 ? 0x3c00 : 0xbc00);
    floats_.push_back(static_cast<float>(value));
  }
  const std::int64_t width_;
  std::vector<std::uint16_t> halves_;
  std::vector<float> floats_;
};

class NearestTest : public testing::TestWithParam<std::int64_t> {
 protected:
  NearestRows Search(const std::vector<float>& train, const std::vector<float>& queries,
                     std::int64_t width, const NearestOptions& options = {}) {
    auto result = NearestByCosine(team_, MemoryRows(train, width), queries, options);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : NearestRows();
  }
  ThreadTeam team_{2};
};

TEST_P(NearestTest, FindsWhatAFullSearchFinds) {
  const std::int64_t width = GetParam();
  const auto train = Random(500 * width, 1);
  const auto queries = Random(130 * width, 2);
  const auto result = Search(train, queries, width, {.train_block = 64, .query_block = 70});
  ASSERT_EQ(result.k, 10);
  for (std::int64_t q = 0; q < 130; ++q) {
    const auto want = BruteForce(train, queries.data() + q * width, width, 10);
    const auto got = result.Of(q);
    for (std::size_t i = 0; i < 10; ++i) {
      EXPECT_NEAR(got[i].distance, want[i].distance, 1e-14) << q;
      if (width > 1) {
        EXPECT_EQ(got[i].row, want[i].row) << q;
      }
    }
  }
}
// So few queries that they take another way to their candidates.
TEST_P(NearestTest, FindsTheSameForFewQueriesAsForMany) {
  const std::int64_t width = GetParam();
  auto train = Random(500 * width, 1);
  const auto queries = Random(130 * width, 2);
  for (const std::int64_t zero : {3, 444}) std::fill_n(train.begin() + zero * width, width, 0.0f);
  for (std::int64_t i = 0; i < width; ++i) {
    train[7 * width + i] *= 1e18f;
    train[300 * width + i] *= 1e-18f;
  }
  const auto many = Search(train, queries, width, {.train_block = 64});
  for (const std::int64_t count : {1, 3, 4, 5}) {
    const std::vector<float> few(queries.begin(), queries.begin() + count * width);
    const auto lent = Search(train, few, width, {.train_block = 64});
    const auto read = NearestByCosine(team_, RowsToRead(MemoryRows(train, width)), few, {});
    ASSERT_TRUE(read.ok()) << read.status();
    for (std::int64_t q = 0; q < count; ++q) {
      const auto want = many.Of(q);
      EXPECT_THAT(lent.Of(q), testing::ElementsAreArray(want.begin(), want.end())) << q;
      EXPECT_THAT(read->Of(q), testing::ElementsAreArray(want.begin(), want.end())) << q;
    }
  }
}

// Many equal distances, zeros, and the smallest and the largest numbers that binary16 has.
TEST_P(NearestTest, FindsTheSameInRowsOfBinary16) {
  const std::int64_t width = GetParam();
  HalfRows train(500, width);
  for (std::int64_t i = 0; i < width; ++i) {
    train.Set(5, i, 0x0001, 0x1p-24f);
    train.Set(6, i, 0x7bff, 65504);
    train.Set(7, i, 0x8000, -0.0f);
  }
  const auto queries = Random(5 * width, 2);
  for (const std::int64_t count : {1, 4, 5}) {
    std::vector<float> few(queries.begin(), queries.begin() + count * width);
    std::copy_n(train.floats().begin() + 100 * width, width, few.begin());
    const auto lent = NearestByCosine(team_, train, few, {.k = 500, .train_block = 64});
    ASSERT_TRUE(lent.ok()) << lent.status();
    const auto want = Search(train.floats(), few, width, {.k = 500});
    EXPECT_EQ(lent->neighbors, want.neighbors);
  }
  constexpr std::uint16_t kInfinity = 0x7c00, kMinusInfinity = 0xfc00, kNan = 0x7e00;
  for (const std::uint16_t bits : {kInfinity, kMinusInfinity, kNan}) {
    train.Set(333, width / 2, bits, std::numeric_limits<float>::infinity());
    const auto refused = NearestByCosine(team_, train, std::span(queries).first(width), {});
    EXPECT_THAT(std::string(refused.status().message()), testing::HasSubstr("training row 333"));
  }
}

INSTANTIATE_TEST_SUITE_P(Widths, NearestTest, testing::Values(1, 7, 64, 1152));

// Rows that float32 cannot tell apart: 1e-9 is far below its error, and far above float64's.
TEST_F(NearestTest, NeighboursCloserThanFloat32RoundingAreOrderedByTheirTrueDistance) {
  constexpr std::int64_t kWidth = 300;
  const auto query = Random(kWidth, 3);
  std::vector<float> train;
  std::mt19937 random(4);
  for (int row = 0; row < 400; ++row) {
    std::vector<float> copy = query;
    for (int flips = 0; flips < 5; ++flips) {
      float& value = copy[random() % kWidth];
      value = std::nextafter(value * 1.0001f, 100.0f);
    }
    train.insert(train.end(), copy.begin(), copy.end());
  }
  const auto result = Search(train, query, kWidth, {.train_block = 50});
  const auto want = BruteForce(train, query.data(), kWidth, 10);
  for (std::size_t i = 0; i < 10; ++i) {
    EXPECT_NEAR(result.Of(0)[i].distance, want[i].distance, 1e-15) << i;
  }
}

TEST_F(NearestTest, EqualRowsComeInOrderAcrossBlocks) {
  const auto row = Random(16, 5);
  std::vector<float> train;
  for (int i = 0; i < 100; ++i) train.insert(train.end(), row.begin(), row.end());
  const auto result = Search(train, Random(16, 6), 16, {.k = 12, .train_block = 8});
  for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(result.Of(0)[i].row, static_cast<std::int64_t>(i));
}

TEST_F(NearestTest, AnExactCopyHasDistanceExactlyZero) {
  for (unsigned seed = 0; seed < 50; ++seed) {
    const auto train = Random(20 * 33, seed);
    const std::vector<float> query(train.begin() + 7 * 33, train.begin() + 8 * 33);
    const auto result = Search(train, query, 33);
    EXPECT_EQ(result.Of(0)[0], (Neighbor{7, 0.0}));
    EXPECT_GT(result.Of(0)[1].distance, 0.0);
  }
}

TEST_F(NearestTest, AZeroVectorIsAtDistanceOneFromAll) {
  const auto result = Search({0, 0, -1, 0, 3, 0}, {0, 0, 2, 0}, 2, {.k = 3});
  EXPECT_THAT(result.Of(0), testing::ElementsAre(Neighbor{0, 1}, Neighbor{1, 1}, Neighbor{2, 1}));
  EXPECT_THAT(result.Of(1), testing::ElementsAre(Neighbor{2, 0}, Neighbor{0, 1}, Neighbor{1, 2}));
}

TEST_F(NearestTest, FewerRowsThanKGivesAllRows) {
  const auto result = Search({1, 0, 0, 1}, {1, 1}, 2);
  EXPECT_EQ(result.k, 2);
  EXPECT_EQ(result.neighbors.size(), 2u);
}

TEST_F(NearestTest, NoTrainingRowsAndNotFiniteRowsAreRefusedByNumber) {
  EXPECT_EQ(NearestByCosine(team_, MemoryRows({}, 2), Random(2, 1), {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  auto train = Random(200, 1);
  train[2 * 77] = std::numeric_limits<float>::quiet_NaN();
  auto status = NearestByCosine(team_, MemoryRows(train, 2), Random(2, 1), {.train_block = 30});
  EXPECT_THAT(std::string(status.status().message()), testing::HasSubstr("training row 77"));
  auto queries = Random(200, 1);
  queries[2 * 55] = std::numeric_limits<float>::infinity();
  status = NearestByCosine(team_, MemoryRows(Random(4, 1), 2), queries, {.query_block = 50});
  EXPECT_THAT(std::string(status.status().message()), testing::HasSubstr("query row 55"));
}

TEST_F(NearestTest, FewRowsAreMeasuredTwice) {
  const auto result = Search(Random(4000 * 64, 8), Random(64 * 64, 9), 64, {.train_block = 500});
  // About k per query for the first block and k/b for block b.
  EXPECT_LT(result.num_rescored, 64 * 100);
  EXPECT_GE(result.num_rescored, 64 * 10);
}

}  // namespace
}  // namespace siglip
