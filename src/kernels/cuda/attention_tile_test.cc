#include "kernels/cuda/attention_tile.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <vector>

#include "kernels/cuda/host_warp_for_test.h"
#include "kernels/kernel_test_util.h"

namespace siglip::cuda {
namespace {

struct Head {
  std::int64_t queries = 0, tokens = 0, head_dim = 0;
  std::vector<float> q, k, v;  // rounded to the type
};

std::vector<float> Rounded(HalfType type, std::vector<float> values) {
  for (float& value : values) value = FromHalf(type, ToHalf(type, value));
  return values;
}

Head RandomHead(HalfType type, std::int64_t queries, std::int64_t tokens, std::int64_t head_dim) {
  return {queries,
          tokens,
          head_dim,
          Rounded(type, RandomFloats(queries * head_dim, 1)),
          Rounded(type, RandomFloats(tokens * head_dim, 2)),
          Rounded(type, RandomFloats(tokens * head_dim, 3))};
}

// A thread block of attention.cu with its copies done at once: shared memory is poisoned, so that
// nothing is read that was not copied.
template <class Shape, HalfType kType>
class Block {
 public:
  using Lane = AttentionLane<Shape>;
  using Warp = HostWarp<kType, Lane>;
  using Tile = AttentionTile<Shape, Warp>;

  std::vector<float> Run(const Head& head) {
    std::vector<float> out(head.queries * head.head_dim, NAN);
    for (std::int64_t first = 0; first < head.queries; first += Shape::kQueries) {
      RunQueries(head, first, out);
    }
    return out;
  }

 private:
  void Copy(const std::vector<float>& from, const Head& head, std::int64_t first, int rows,
            int to) {
    for (int i = 0; i < rows * Shape::kVectors; ++i) {
      const TileVector vector = VectorOfTile<Shape>(i);
      for (int j = 0; j < 8; ++j) {
        const std::int64_t row = first + vector.row, column = vector.column + j;
        const bool inside = row < std::ssize(from) / head.head_dim && column < head.head_dim;
        shared_[to + vector.row * Shape::kStride + column] =
            inside ? ToHalf(kType, from[row * head.head_dim + column]) : 0;
      }
    }
  }

  void RunQueries(const Head& head, std::int64_t first, std::vector<float>& out) {
    shared_.assign(Shape::kSharedElements, ToHalf(kType, NAN));
    const float scale =
        static_cast<float>(1 / std::sqrt(static_cast<double>(head.head_dim)) / std::log(2.0));
    Copy(head.q, head, first, Shape::kQueries, 0);
    std::vector<Warp> warps(Shape::kWarps, Warp(shared_));
    for (int w = 0; w < Shape::kWarps; ++w) Tile::Start(warps[w], w * Shape::kWarpQueries);
    for (std::int64_t key = 0; key < head.tokens; key += Shape::kKeys) {
      const int stage = static_cast<int>(key / Shape::kKeys % 2);
      Copy(head.k, head, key, Shape::kKeys, Shape::KeyOffset(stage));
      Copy(head.v, head, key, Shape::kKeys, Shape::ValueOffset(stage));
      const int valid = static_cast<int>(std::min<std::int64_t>(Shape::kKeys, head.tokens - key));
      for (Warp& warp : warps) {
        Tile::Step(warp, Shape::KeyOffset(stage), Shape::ValueOffset(stage), valid, scale);
      }
    }
    for (int w = 0; w < Shape::kWarps; ++w) {
      Tile::Finish(warps[w], w * Shape::kWarpQueries);
      EXPECT_FALSE(warps[w].misaligned());
    }
    const std::int64_t rows = std::min<std::int64_t>(Shape::kQueries, head.queries - first);
    for (std::int64_t i = 0; i < rows * head.head_dim; ++i) {
      out[first * head.head_dim + i] =
          FromHalf(kType, shared_[i / head.head_dim * Shape::kStride + i % head.head_dim]);
    }
  }

  std::vector<std::uint16_t> shared_;
};

// Weights and outputs are rounded once each: 2^-9 and 2^-12 of a value (half a unit in the last
// place of 8 and 11 bits), uniform, so 0.58 of it in the mean; twice that for both together.
double Tolerance(HalfType type) { return std::ldexp(1.2, type == HalfType::kBf16 ? -9 : -12); }

template <class Shape, HalfType kType>
void ExpectEqualsReference(std::int64_t queries, std::int64_t tokens, std::int64_t head_dim) {
  const Head head = RandomHead(kType, queries, tokens, head_dim);
  const std::vector<float> got = Block<Shape, kType>().Run(head);
  const reference::Matrix want =
      reference::Attention(ToDouble(head.q), ToDouble(head.k), ToDouble(head.v), 1, head_dim);
  EXPECT_LT(RelativeError(got, want), Tolerance(kType))
      << queries << " queries, " << tokens << " tokens, head of " << head_dim;
}

template <int kHeadDim, int kRowTiles>
void ExpectBothTypesEqualReference(std::int64_t queries, std::int64_t tokens,
                                   std::int64_t head_dim) {
  using Shape = AttentionShape<kHeadDim, kRowTiles>;
  ExpectEqualsReference<Shape, HalfType::kBf16>(queries, tokens, head_dim);
  ExpectEqualsReference<Shape, HalfType::kFp16>(queries, tokens, head_dim);
}

TEST(AttentionTileTest, HeadOf72With729Tokens) {
  ExpectBothTypesEqualReference<72, 2>(729, 729, 72);
}

TEST(AttentionTileTest, EveryLengthOfTheTail) {
  for (const std::int64_t tokens :
       {1, 2, 7, 8, 15, 16, 17, 33, 48, 49, 63, 64, 65, 127, 130, 196}) {
    ExpectBothTypesEqualReference<72, 2>(std::min<std::int64_t>(tokens, 37), tokens, 72);
  }
}

TEST(AttentionTileTest, EveryInstance) {
  ExpectBothTypesEqualReference<32, 2>(70, 70, 32);
  ExpectBothTypesEqualReference<64, 2>(130, 70, 64);
  ExpectBothTypesEqualReference<80, 2>(70, 70, 80);
  ExpectBothTypesEqualReference<96, 1>(70, 70, 96);
  ExpectBothTypesEqualReference<128, 1>(70, 70, 128);
}

TEST(AttentionTileTest, NarrowerHeadsArePaddedWithZeros) {
  ExpectBothTypesEqualReference<32, 2>(20, 20, 8);
  ExpectBothTypesEqualReference<32, 2>(20, 20, 24);
  ExpectBothTypesEqualReference<64, 2>(20, 20, 56);
  ExpectBothTypesEqualReference<96, 1>(20, 20, 88);
}

// Large scores: an online softmax that forgot a correction would be far off, one without the
// maximum infinite.
TEST(AttentionTileTest, ScoresThatGrowFromTileToTile) {
  using Shape = AttentionShape<72, 2>;
  Head head = RandomHead(HalfType::kBf16, 16, 200, 72);
  for (std::int64_t i = 0; i < std::ssize(head.k); ++i)
    head.k[i] *= 0.1f * static_cast<float>(i / 72);
  head.k = Rounded(HalfType::kBf16, head.k);
  const auto got = Block<Shape, HalfType::kBf16>().Run(head);
  const auto want =
      reference::Attention(ToDouble(head.q), ToDouble(head.k), ToDouble(head.v), 1, 72);
  EXPECT_LT(RelativeError(got, want), Tolerance(HalfType::kBf16));
}

TEST(AttentionTileTest, NotANumberSpreadsToWhatReadsIt) {
  using Shape = AttentionShape<72, 2>;
  Head head = RandomHead(HalfType::kBf16, 8, 70, 72);
  head.q[3 * 72] = NAN;
  const auto got = Block<Shape, HalfType::kBf16>().Run(head);
  for (std::int64_t i = 0; i < std::ssize(got); ++i) {
    EXPECT_EQ(std::isnan(got[i]), i / 72 == 3) << i;
  }
}

// The 8 rows that one phase of ldmatrix reads lie in different groups of banks (128 bytes).
TEST(AttentionTileTest, RowsOfAMatrixLieInDifferentBanks) {
  for (const int stride : {AttentionShape<32, 2>::kStride, AttentionShape<64, 2>::kStride,
                           AttentionShape<72, 2>::kStride, AttentionShape<80, 2>::kStride,
                           AttentionShape<96, 1>::kStride, AttentionShape<128, 1>::kStride}) {
    std::set<int> banks;
    for (int row = 0; row < 8; ++row) banks.insert(row * stride * 2 % 128 / 16);
    EXPECT_EQ(banks.size(), 8u) << stride;
  }
  static_assert(AttentionShape<72, 2>::kStride == 72);
}

TEST(AttentionTileTest, VectorsCoverATileOnce) {
  using Shape = AttentionShape<72, 2>;
  std::set<std::pair<int, int>> seen;
  for (int i = 0; i < Shape::kKeys * Shape::kVectors; ++i) {
    const TileVector vector = VectorOfTile<Shape>(i);
    EXPECT_LT(vector.row, Shape::kKeys);
    EXPECT_LE(vector.column + 8, Shape::kHeadDim);
    EXPECT_TRUE(seen.emplace(vector.row, vector.column).second);
  }
}

}  // namespace
}  // namespace siglip::cuda
