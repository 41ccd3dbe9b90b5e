#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/kernel_test_util.h"
#include "kernels/reference.h"
#include "kernels/target.h"

namespace siglip {
namespace {

struct Problem {
  std::int64_t batch, tokens, heads, head_dim, query_begin, query_count;
  std::vector<float> qkv;
  std::int64_t width() const { return heads * head_dim; }
};

Problem MakeProblem(std::array<std::int64_t, 6> sizes, float scale) {
  Problem p{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], {}};
  p.qkv = RandomFloats(p.batch * p.tokens * 3 * p.width(), 5, scale);
  return p;
}

std::vector<float> Attend(const Problem& p, int threads, GemmFormat format = GemmFormat::kFp32) {
  ThreadTeam team(threads);
  AlignedBuffer<float> scratch(AttentionScratchFloats(p.tokens, p.head_dim) *
                               static_cast<std::size_t>(threads));
  std::vector<float> out(static_cast<std::size_t>(p.batch * p.query_count * p.width()), NAN);
  AttentionCall call;
  call.batch = p.batch;
  call.tokens = p.tokens;
  call.heads = p.heads;
  call.head_dim = p.head_dim;
  call.q = p.qkv.data();
  call.k = p.qkv.data() + p.width();
  call.v = p.qkv.data() + 2 * p.width();
  call.row_stride = 3 * p.width();
  call.query_begin = p.query_begin;
  call.query_count = p.query_count;
  call.out = out.data();
  call.out_stride = p.width();
  call.format = format;
  Attention(team, call, scratch.data());
  return out;
}

reference::Matrix Expected(const Problem& p) {
  reference::Matrix all;
  const std::int64_t w = p.width();
  for (std::int64_t item = 0; item < p.batch; ++item) {
    reference::Matrix q, k, v;
    for (std::int64_t t = 0; t < p.tokens; ++t) {
      const auto row = p.qkv.begin() + (item * p.tokens + t) * 3 * w;
      if (t >= p.query_begin && t < p.query_begin + p.query_count) q.insert(q.end(), row, row + w);
      k.insert(k.end(), row + w, row + 2 * w);
      v.insert(v.end(), row + 2 * w, row + 3 * w);
    }
    const auto one = reference::Attention(q, k, v, p.heads, p.head_dim);
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

TEST(AttentionTest, EqualsFloat64AtOddSizes) {
  for (const auto& sizes : std::vector<std::array<std::int64_t, 6>>{{1, 1, 1, 1, 0, 1},
                                                                    {2, 9, 3, 12, 0, 9},
                                                                    {1, 33, 2, 9, 0, 33},
                                                                    {2, 64, 2, 64, 63, 1},
                                                                    {1, 77, 2, 72, 0, 77},
                                                                    {1, 25, 1, 80, 3, 17}}) {
    SCOPED_TRACE(testing::PrintToString(sizes));
    const Problem p = MakeProblem(sizes, 1);
    // Scores of up to about 5 with an error of some eps each, then sums of up to 77.
    EXPECT_LT(RelativeError(Attend(p, 2), Expected(p)), 2e-6);
  }
}

TEST(AttentionTest, Int16ScoresAreNearFloat64) {
  for (const auto& sizes : std::vector<std::array<std::int64_t, 6>>{{1, 1, 1, 1, 0, 1},
                                                                    {2, 9, 3, 12, 0, 9},
                                                                    {1, 33, 2, 9, 0, 33},
                                                                    {2, 64, 2, 64, 63, 1},
                                                                    {1, 77, 2, 72, 0, 77},
                                                                    {1, 20, 1, 576, 0, 20}}) {
    SCOPED_TRACE(testing::PrintToString(sizes));
    const Problem p = MakeProblem(sizes, 1);
    // Elements are off by max / 16383 / sqrt(12), so a score of unit vectors by 1.8e-5 (max q + max
    // k), maxima being about 4 (or by 2e-4 where 576 elements share the norm's limit); e^x and the
    // weighted sum take that over as a relative error.
    const double error = RelativeError(Attend(p, 2, GemmFormat::kInt16), Expected(p));
    EXPECT_LT(error, 2e-4);
    const double float32 = p.tokens == 1 ? 0 : 2e-6;  // one token weighs 1 in any format
    EXPECT_GE(error, float32) << "not in int16";
  }
}

// Heads that whole tiles of integers divide, and not; tokens and queries that fill tiles, and not.
TEST(AttentionInt16Test, VnniChangesNoBit) {
  const std::string in_use = KernelTargetName();
  for (const std::string& target : KernelTargets()) {
    if (!target.ends_with("-vnni")) continue;
    for (const auto& sizes : std::vector<std::array<std::int64_t, 6>>{
             {1, 25, 2, 72, 0, 25}, {1, 24, 1, 16, 0, 16}, {1, 7, 2, 9, 0, 7}}) {
      const Problem p = MakeProblem(sizes, 1);
      ASSERT_TRUE(SelectKernelTarget(target));
      const std::vector<float> vnni = Attend(p, 1, GemmFormat::kInt16);
      ASSERT_TRUE(SelectKernelTarget(VectorTargetName()));
      EXPECT_EQ(Attend(p, 1, GemmFormat::kInt16), vnni) << target;
    }
  }
  ASSERT_TRUE(SelectKernelTarget(in_use));
}

// On every instruction set with AMX: one tile and more of tokens, queries and columns, full and
// not; more tiles of columns than fit at once.
template <class Check>
void ForShapesOnAmx(const Check& check) {
  const std::string in_use = KernelTargetName();
  for (const std::string& target : KernelTargets()) {
    if (!target.ends_with("-amx")) continue;
    ASSERT_TRUE(SelectKernelTarget(target));
    for (const auto& sizes : std::vector<std::array<std::int64_t, 6>>{{1, 1, 1, 1, 0, 1},
                                                                      {2, 9, 3, 12, 0, 9},
                                                                      {1, 33, 1, 72, 0, 33},
                                                                      {1, 64, 1, 64, 63, 1},
                                                                      {1, 77, 1, 96, 3, 50},
                                                                      {1, 20, 1, 576, 0, 20}}) {
      SCOPED_TRACE(target + testing::PrintToString(sizes));
      check(MakeProblem(sizes, 1));
    }
  }
  ASSERT_TRUE(SelectKernelTarget(in_use));
}

// Factors are off by up to 2^-18, half of that or less in the mean, and 2^-18 is left out of a
// product: a score of unit vectors by some 2^-19 sqrt(3) times their lengths, weighted sums by as
// much again.
TEST(AttentionInt16Test, AmxIsNearerToFloat64ThanIntegers) {
  ForShapesOnAmx([](const Problem& p) {
    const std::vector<float> got = Attend(p, 2, GemmFormat::kInt16);
    EXPECT_LT(RelativeError(got, Expected(p)), 2e-5);
    EXPECT_EQ(Attend(p, 1, GemmFormat::kInt16), got);
  });
}

// bfloat16 is off by up to 2^-8 of the power of two below a number, 1.6e-3 of the number in the
// mean: a score of unit vectors by sqrt(2) times that, and its weight and the value by that again.
TEST(AttentionBf16Test, IsAsNearAsBfloat16) {
  ForShapesOnAmx([](const Problem& p) {
    const std::vector<float> got = Attend(p, 2, GemmFormat::kBf16);
    const double error = RelativeError(got, Expected(p));
    EXPECT_LT(error, 2 * 3.2e-3);
    EXPECT_GT(error, 3.2e-3 / 8) << "nearer than one bfloat16 is";
    EXPECT_EQ(Attend(p, 1, GemmFormat::kBf16), got);
    EXPECT_EQ(Attend(p, 1, GemmFormat::kInt8), got);
  });
}

TEST(AttentionInt16Test, AQueryDoesNotDependOnTheOthersBitForBit) {
  Problem p = MakeProblem({1, 70, 1, 72, 0, 70}, 1);
  const std::vector<float> all = Attend(p, 1, GemmFormat::kInt16);
  for (const std::int64_t query : {0, 1, 15, 16, 31, 32, 69}) {
    p.query_begin = query;
    p.query_count = 1;
    const std::vector<float> one = Attend(p, 1, GemmFormat::kInt16);
    EXPECT_TRUE(std::equal(one.begin(), one.end(), all.begin() + query * p.width())) << query;
  }
}

TEST(AttentionInt16Test, NotANumberReachesWhatAsksForIt) {
  Problem p = MakeProblem({1, 40, 1, 72, 0, 40}, 1);
  p.qkv[5 * 3 * 72] = NAN;  // query 5
  const std::vector<float> out = Attend(p, 1, GemmFormat::kInt16);
  for (std::int64_t i = 0; i < 40 * 72; ++i) EXPECT_EQ(std::isnan(out[i]), i / 72 == 5) << i;
  p.qkv[7 * 3 * 72 + 2 * 72 + 3] = NAN;  // value 7, column 3: every query
  const std::vector<float> both = Attend(p, 1, GemmFormat::kInt16);
  for (std::int64_t i = 0; i < 40 * 72; ++i) {
    EXPECT_EQ(std::isnan(both[i]), i / 72 == 5 || i % 72 == 3) << i;
  }
}

TEST(AttentionTest, HeadsWiderThanABlockAreFp32) {
  const Problem p = MakeProblem({1, 12, 1, 578, 0, 12}, 1);
  EXPECT_EQ(Attend(p, 1, GemmFormat::kInt16), Attend(p, 1, GemmFormat::kFp32));
}

TEST(AttentionTest, LargeScoresDoNotOverflow) {
  const Problem p = MakeProblem({1, 40, 2, 16, 0, 40}, 30);
  const auto out = Attend(p, 1);
  // Scores of about 4000 carry an error of 4000 eps, which e^x takes over as a relative error.
  EXPECT_LT(RelativeError(out, Expected(p)), 2e-3);
}

TEST(AttentionTest, LongSumsRunInBlocks) {
  // Zero queries weigh every token alike, which leaves the sum of the values, all near 1. Adding n
  // of them rounds n times by up to n eps / 2, together sqrt(n) eps / 3 of the sum.
  Problem p = MakeProblem({1, 4096, 1, 8, 0, 2}, 1e-3f);
  for (std::int64_t t = 0; t < 4096; ++t) {
    for (std::int64_t x = 0; x < 8; ++x) {
      p.qkv[t * 24 + x] = 0;
      p.qkv[t * 24 + 16 + x] += 1;
    }
  }
  EXPECT_LT(RelativeError(Attend(p, 1), Expected(p)), std::sqrt(256) * 6e-8 / 3);
}

class AttentionLawTest : public testing::TestWithParam<GemmFormat> {};
INSTANTIATE_TEST_SUITE_P(Formats, AttentionLawTest,
                         testing::Values(GemmFormat::kFp32, GemmFormat::kInt16, GemmFormat::kBf16));

TEST_P(AttentionLawTest, NeitherBatchNorThreadsNorTheRangeOfQueriesChangeABit) {
  const Problem all = MakeProblem({3, 50, 2, 20, 0, 50}, 1);
  const auto want = Attend(all, 1, GetParam());
  EXPECT_EQ(Attend(all, 4, GetParam()), want);
  Problem last = all;
  last.query_begin = 49;
  last.query_count = 1;
  const auto got = Attend(last, 2, GetParam());
  const std::int64_t w = all.width();
  for (std::int64_t item = 0; item < 3; ++item) {
    EXPECT_TRUE(std::equal(got.begin() + item * w, got.begin() + (item + 1) * w,
                           want.begin() + (item * 50 + 49) * w));
  }
  Problem second = MakeProblem({1, 50, 2, 20, 0, 50}, 1);
  std::copy_n(all.qkv.begin() + 50 * 3 * w, 50 * 3 * w, second.qkv.begin());
  const auto alone = Attend(second, 1, GetParam());
  EXPECT_TRUE(std::equal(alone.begin(), alone.end(), want.begin() + 50 * w));
}

// Items of several lengths side by side, one of them longer than a tile of queries.
TEST_P(AttentionLawTest, ItemsOfUnequalLengthEqualThemselvesAlone) {
  const std::vector<std::int64_t> begins = {0, 50, 51, 58, 140};
  const Problem all = MakeProblem({1, begins.back(), 2, 20, 0, begins.back()}, 1);
  const std::int64_t w = all.width();
  for (const int threads : {1, 3}) {
    ThreadTeam team(threads);
    AlignedBuffer<float> scratch(AttentionScratchFloats(82, 20) *
                                 static_cast<std::size_t>(threads));
    std::vector<float> out(static_cast<std::size_t>(begins.back() * w), NAN);
    AttentionCall call;
    call.batch = 4;
    call.tokens = 82;
    call.row_begins = begins.data();
    call.heads = 2;
    call.head_dim = 20;
    call.q = all.qkv.data();
    call.k = all.qkv.data() + w;
    call.v = all.qkv.data() + 2 * w;
    call.row_stride = 3 * w;
    call.out = out.data();
    call.out_stride = w;
    call.format = GetParam();
    Attention(team, call, scratch.data());
    for (std::size_t item = 0; item < 4; ++item) {
      const std::int64_t tokens = begins[item + 1] - begins[item];
      Problem one{1, tokens, 2, 20, 0, tokens, {}};
      one.qkv.assign(all.qkv.begin() + begins[item] * 3 * w,
                     all.qkv.begin() + begins[item + 1] * 3 * w);
      const std::vector<float> got(out.begin() + begins[item] * w,
                                   out.begin() + begins[item + 1] * w);
      EXPECT_EQ(got, Attend(one, 1, GetParam())) << "item " << item;
    }
  }
}

TEST_P(AttentionLawTest, NotANumberInAValueReachesEveryQueryOfItsHeadOnly) {
  Problem p = MakeProblem({1, 20, 2, 8, 0, 20}, 1);
  p.qkv[4 * 48 + 32 + 3] = NAN;  // value of token 4, head 0
  const auto out = Attend(p, 1, GetParam());
  for (std::int64_t i = 0; i < 20 * 16; ++i) EXPECT_EQ(std::isnan(out[i]), i % 16 == 3) << i;
  p.qkv[4 * 48 + 32 + 3] = 0;
  p.qkv[4 * 48 + 16 + 3] = std::nanf("1");  // key of token 4, head 0; lower bits are not zero
  const auto by_key = Attend(p, 1, GetParam());
  for (std::int64_t i = 0; i < 20 * 16; ++i) EXPECT_EQ(std::isnan(by_key[i]), i % 16 < 8) << i;
}

}  // namespace
}  // namespace siglip
