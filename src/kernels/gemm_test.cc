#include "kernels/gemm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "kernels/gemm_kernels.h"
#include "kernels/kernel_test_util.h"
#include "kernels/reference.h"
#include "kernels/target.h"
#include "kernels/test_isa.h"

namespace siglip {
namespace {

// A sum of k random products in fp32 is off by about sqrt(k) eps; 4 leaves room for blocks and
// GELU.
double Tolerance(std::int64_t k) { return 4 * std::sqrt(static_cast<double>(k) + 1) * 6e-8; }

struct Problem {
  std::int64_t m, n, k;
  std::vector<float> a, w, bias, residual;

  Problem(std::int64_t rows, std::int64_t columns, std::int64_t depth)
      : m(rows),
        n(columns),
        k(depth),
        a(RandomFloats(m * k, 1)),
        w(RandomFloats(n * k, 2)),
        bias(RandomFloats(n, 3)),
        residual(RandomFloats(m * n, 4)) {}
};

std::vector<float> Multiply(const Problem& problem, int threads, bool bias, bool gelu,
                            bool residual, GemmFormat format = GemmFormat::kFp32) {
  ThreadTeam team(threads);
  std::vector<float> scratch(GemmScratchFloats(problem.m, problem.k));
  PackedMatrix w(problem.n, problem.k, format);
  w.SetRows(0, problem.n, problem.w.data());
  std::vector<float> c(static_cast<std::size_t>(problem.m * problem.n), NAN);
  GemmCall call;
  call.m = problem.m;
  call.a = problem.a.data();
  call.a_stride = problem.k;
  call.w = &w;
  call.c = c.data();
  call.c_stride = problem.n;
  if (bias) call.bias = problem.bias.data();
  call.gelu = gelu;
  if (residual) call.residual = problem.residual.data();
  call.residual_stride = problem.n;
  Gemm(team, call, scratch.data());
  return c;
}

// Rounding to integers is off by at most 1/2, 1/sqrt(12) in the mean: the root of a block's
// elements / 12 over a norm of 46320 (or, in short rows, 1/2 of 6143) for each factor, and once
// more for blocks that are not the largest of their row.
double Int16Tolerance() {
  const auto elements = 2 * static_cast<double>(GemmBlockSteps(GemmFormat::kInt16));
  return 2 * 1.42 * std::sqrt(elements / 12) / 46320;
}

// Steps of a 127th of the greatest of k normal numbers, 4.5 at most here, for either factor; off by
// 1/sqrt(12) of one in the mean.
constexpr double kInt8Tolerance = 2 * 1.42 * 4.5 / 127 / 3.46;

// 8 bits: off by at most 2^-8 of an element, 1/sqrt(3) of it in the mean, for either factor.
constexpr double kBf16Tolerance = 2 * 1.42 / 256 / 1.73;

class GemmFormatTest : public testing::TestWithParam<GemmFormat> {
 protected:
  // What rounding the factors costs.
  static double RoundingTolerance() {
    switch (GetParam()) {
      case GemmFormat::kFp32:
        return 0;
      case GemmFormat::kInt16:
        return Int16Tolerance();
      case GemmFormat::kInt8:
        return kInt8Tolerance;
      case GemmFormat::kBf16:
        return kBf16Tolerance;
    }
    return 0;
  }
  static double Tolerance(std::int64_t k) { return siglip::Tolerance(k) + RoundingTolerance(); }
  static std::vector<float> Multiply(const Problem& problem, int threads, bool bias, bool gelu,
                                     bool residual) {
    return siglip::Multiply(problem, threads, bias, gelu, residual, GetParam());
  }
};

INSTANTIATE_TEST_SUITE_P(Formats, GemmFormatTest, testing::ValuesIn(FormatsOfTest()),
                         [](const auto& format) { return GemmFormatName(format.param); });

TEST_P(GemmFormatTest, EveryEpilogueEqualsFloat64AtOddSizes) {
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{{1, 1, 1},
                                                                        {1, 33, 300},
                                                                        {5, 16, 7},
                                                                        {6, 17, 64},
                                                                        {7, 31, 255},
                                                                        {12, 32, 256},
                                                                        {13, 48, 257},
                                                                        {11, 49, 513},
                                                                        {23, 100, 36},
                                                                        {253, 65, 40},
                                                                        {255, 7, 130},
                                                                        {64, 130, 600},
                                                                        {97, 72, 1300},
                                                                        {820, 20, 40},
                                                                        {18, 20, 1601}}) {
    const Problem problem(m, n, k);
    const auto product = reference::Linear(ToDouble(problem.a), m, ToDouble(problem.w),
                                           ToDouble(problem.bias), n, k);
    SCOPED_TRACE(testing::Message() << m << " x " << n << " x " << k);
    EXPECT_LT(RelativeError(Multiply(problem, 2, true, false, false), product), Tolerance(k));
    auto gelu = product;
    for (double& value : gelu) value = reference::GeluTanh(value);
    EXPECT_LT(RelativeError(Multiply(problem, 2, true, true, false), gelu), Tolerance(k));
    auto sum = product;
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += problem.residual[i];
    EXPECT_LT(RelativeError(Multiply(problem, 2, true, false, true), sum), Tolerance(k));
    const auto bare = reference::Linear(ToDouble(problem.a), m, ToDouble(problem.w), {}, n, k);
    EXPECT_LT(RelativeError(Multiply(problem, 1, false, false, false), bare), Tolerance(k));
  }
}

// Element by element, where the tolerance of a norm would hide what is small. In units of float's
// rounding: 2 in the quotient, 2 in the power of 2 (each up to twice where nothing is fused), and 5
// in its exponent t, which cost the power 5 t ln 2.
TEST(GemmTest, GeluIsRightFarBelowZeroToo) {
  Problem problem(1153, 1, 1);
  for (std::size_t i = 0; i < 1153; ++i) problem.a[i] = static_cast<float>(i) / 64 - 9;
  problem.w[0] = 1;
  const std::vector<float> got = Multiply(problem, 1, false, true, false);
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double x = problem.a[i];
    const double minus_2u = -2 * std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
    const double want = x / (1 + std::exp(minus_2u));
    const double share = std::exp(minus_2u) / (1 + std::exp(minus_2u));
    EXPECT_NEAR(got[i], want, std::abs(want) * 0x1p-24 * (4 + share * (4 + 5 * std::abs(minus_2u))))
        << x;
  }
}

TEST_P(GemmFormatTest, RowsDoNotDependOnTheOthersNorOnThreadsBitForBit) {
  constexpr std::int64_t kDepth = 1300;
  const Problem all(270, 70, kDepth);
  const std::vector<float> want = Multiply(all, 1, true, true, true);
  EXPECT_EQ(Multiply(all, 3, true, true, true), want);
  for (const std::int64_t row : {0, 5, 12, 251, 252, 269}) {
    Problem one(1, 70, kDepth);
    std::copy_n(all.a.begin() + row * kDepth, kDepth, one.a.begin());
    std::copy_n(all.residual.begin() + row * 70, 70, one.residual.begin());
    const std::vector<float> got = Multiply(one, 2, true, true, true);
    EXPECT_TRUE(std::equal(got.begin(), got.end(), want.begin() + row * 70)) << "row " << row;
  }
}

// And changes no other, of A or of W.
TEST_P(GemmFormatTest, NotANumberStaysInItsRow) {
  for (const std::int64_t m : {14, 110}) {
    const Problem numbers(m, 33, 20);
    const std::vector<float> want = Multiply(numbers, 1, true, true, false);
    const auto expect_nan = [&](const Problem& problem, std::int64_t row, std::int64_t column) {
      const std::vector<float> c = Multiply(problem, 1, true, true, false);
      for (std::int64_t i = 0; i < m * 33; ++i) {
        if (i / 33 == row || i % 33 == column) {
          EXPECT_TRUE(std::isnan(c[i])) << m << ", " << i;
        } else {
          EXPECT_EQ(c[i], want[i]) << m << ", " << i;
        }
      }
    };
    Problem problem = numbers;
    problem.a[3 * 20 + 4] = std::nanf("1");  // its lower bits are not zero
    expect_nan(problem, 3, -1);
    if (!IsInteger(GetParam())) continue;
    problem.a[3 * 20 + 4] = INFINITY;
    expect_nan(problem, 3, -1);
    problem.a = numbers.a;
    problem.w[6 * 20 + 1] = -INFINITY;
    expect_nan(problem, -1, 6);
  }
}

TEST_P(GemmFormatTest, SizesOfRowsAndColumnsDoNotMatterAndZeroRowsAreZero) {
  Problem problem(9, 21, 70);
  for (std::int64_t row = 0; row < 9; ++row) {
    for (std::int64_t i = 0; i < 70; ++i) {
      problem.a[row * 70 + i] *= std::pow(10.0f, static_cast<float>(5 * row - 20));
    }
  }
  std::fill_n(problem.a.begin() + 2 * 70, 70, 0.0f);
  std::fill_n(problem.w.begin() + 4 * 70, 70, 0.0f);
  const auto want = reference::Linear(ToDouble(problem.a), 9, ToDouble(problem.w), {}, 21, 70);
  const std::vector<float> got = Multiply(problem, 1, false, false, false);
  const double tolerance =
      GetParam() == GemmFormat::kFp32 ? siglip::Tolerance(70) : RoundingTolerance();
  for (std::int64_t row = 0; row < 9; ++row) {
    const std::vector<float> part(got.begin() + row * 21, got.begin() + (row + 1) * 21);
    EXPECT_EQ(part[4], 0.0f);
    if (row == 2) {
      EXPECT_EQ(part, std::vector<float>(21, 0.0f));
    } else {
      const std::vector<double> exact(want.begin() + row * 21, want.begin() + (row + 1) * 21);
      EXPECT_LT(RelativeError(part, exact), tolerance) << "row " << row;
    }
  }
}

// Rows that are parallel reach the bound of Cauchy-Schwarz, with every prefix of the sum: equal
// elements, one sign or alternating, and a few large ones among small ones.
TEST(GemmInt16Test, NoSumLeaves32Bits) {
  for (const std::int64_t k : {1, 2, 575, 576, 577, 1152, 1153, 4304}) {
    for (int pattern = 0; pattern < 3; ++pattern) {
      Problem problem(100, 19, k);
      for (std::int64_t i = 0; i < k; ++i) {
        float value = 1;
        if (pattern == 1 && i % 2 == 1) value = -1;
        if (pattern == 2) value = i % 100 == 0 ? 300.0f : 0.5f;
        for (std::int64_t row = 0; row < 100; ++row) problem.a[row * k + i] = value;
        for (std::int64_t row = 0; row < 19; ++row) problem.w[row * k + i] = 1e-3f * value;
      }
      auto want = reference::Linear(ToDouble(problem.a), 100, ToDouble(problem.w), {}, 19, k);
      for (const std::int64_t m : {100, 7}) {
        problem.m = m;
        want.resize(static_cast<std::size_t>(m * 19));
        EXPECT_LT(
            RelativeError(Multiply(problem, 1, false, false, false, GemmFormat::kInt16), want),
            Int16Tolerance())
            << m << " rows, k " << k << ", pattern " << pattern;
      }
    }
  }
}

// The instruction set that is in use has what its tests are made for.
TEST(GemmTest, FormatsOfTestAreThere) {
  const std::vector<GemmFormat> formats = FormatsOfTest();
  for (const GemmFormat format :
       {GemmFormat::kFp32, GemmFormat::kInt16, GemmFormat::kInt8, GemmFormat::kBf16}) {
    const bool listed = std::find(formats.begin(), formats.end(), format) != formats.end();
    EXPECT_EQ(GemmHasFormat(format), listed) << GemmFormatName(format);
  }
}

// C's definition, one integer product at a time. Some rows and columns have elements that take all
// the bits that they may, at one position of both halves of a block of K.
TEST(GemmInt16Test, SumsAreExact) {
  const TileShape shape = GemmTileShape(GemmFormat::kInt16);
  const std::int64_t block = 2 * shape.block_steps;
  for (const auto& rows_and_depth : std::vector<std::array<std::int64_t, 2>>{
           {22, 3}, {22, 8}, {22, 70}, {22, 580}, {22, 1153}, {103, 8}, {103, 580}, {103, 1310}}) {
    const std::int64_t k = rows_and_depth[1];
    Problem problem(rows_and_depth[0], 70, k);
    const std::int64_t half = 2 * StrassenHalf(std::min((k + 1) / 2, shape.block_steps));
    const auto peaks = [&](std::vector<float>& rows, std::int64_t count, std::int64_t period,
                           float sign) {
      for (std::int64_t row = 0; row < count; row += period) {
        const float peak = 3 * static_cast<float>(row % 17) - 20;
        rows[row * k + row % k] = peak;
        if (k <= half) continue;
        rows[row * k] = 20;
        rows[row * k + half] = row % 2 == 0 ? 20 : 20 * sign;
      }
    };
    peaks(problem.a, problem.m, 3, 1);
    peaks(problem.w, problem.n, 5, -1);
    const std::vector<float> got = Multiply(problem, 1, false, false, false, GemmFormat::kInt16);

    const std::int64_t steps = (k + 1) / 2;
    struct Row {
      std::vector<std::int16_t> integers;
      float scale = 0;
    };
    const auto quantize = [&](const std::vector<float>& from, std::int64_t row, int max_integer) {
      Row to;
      to.integers.resize(static_cast<std::size_t>(2 * steps));
      std::vector<std::int32_t> cross_products(
          static_cast<std::size_t>(BlocksOf(steps, shape.block_steps)));
      QuantizeRow(from.data() + row * k, k,
                  {.max_integer = max_integer,
                   .block_steps = shape.block_steps,
                   .integers = to.integers.data(),
                   .scale = &to.scale,
                   .cross_products = cross_products.data(),
                   .stride = 1});
      return to;
    };
    int greatest = 0;
    for (std::int64_t row = 0; row < problem.m; ++row) {
      const Row a = quantize(problem.a, row, shape.limits.activation);
      for (std::int64_t column = 0; column < problem.n; ++column) {
        const Row w = quantize(problem.w, column, shape.limits.weight);
        float value = 0;
        for (std::int64_t first = 0; first < 2 * steps; first += block) {
          std::int64_t sum = 0;
          for (std::int64_t i = first; i < std::min(2 * steps, first + block); ++i) {
            sum += a.integers[i] * w.integers[i];
            greatest = std::max(greatest, std::abs(a.integers[i]) + std::abs(w.integers[i]));
          }
          value += static_cast<float>(sum);
        }
        EXPECT_EQ(got[row * problem.n + column], value * a.scale * w.scale)
            << problem.m << " rows, k " << k << ", row " << row << ", column " << column;
      }
    }
    // Where two peaks meet, the limits of both do.
    const int limit = shape.limits.activation + shape.limits.weight;
    EXPECT_LE(greatest, limit);
    EXPECT_GT(greatest, limit - limit / 40);
  }
}

// Full tiles and less, wide panels and a narrow one, two blocks of K. Compares where there are two.
TEST(GemmInt16TargetsTest, VnniAndAmxHaveTheSameBits) {
  const std::string in_use = KernelTargetName();
  for (const auto& [m, n, k] :
       std::vector<std::array<std::int64_t, 3>>{{25, 50, 603}, {1, 16, 64}, {33, 3, 1153}}) {
    const Problem problem(m, n, k);
    std::vector<float> first;
    for (const std::string& target : KernelTargets()) {
      if (!target.ends_with("-vnni") && !target.ends_with("-amx")) continue;
      ASSERT_TRUE(SelectKernelTarget(target));
      EXPECT_EQ(KernelUsesVnni(), target.ends_with("-vnni"));
      EXPECT_EQ(KernelUsesAmx(), target.ends_with("-amx"));
      const std::vector<float> got = Multiply(problem, 1, true, true, true, GemmFormat::kInt16);
      if (first.empty()) first = got;
      EXPECT_EQ(got, first) << target << ", " << m << " x " << n << " x " << k;
    }
  }
  ASSERT_TRUE(SelectKernelTarget(in_use));
}

// Compares where there are two of them.
TEST(GemmInt8TargetsTest, VnniAndAmxHaveTheSameBits) {
  const std::string in_use = KernelTargetName();
  for (const auto& [m, n, k] :
       std::vector<std::array<std::int64_t, 3>>{{25, 50, 603}, {1, 16, 64}, {70, 3, 1300}}) {
    const Problem problem(m, n, k);
    std::vector<float> first;
    for (const std::string& target : KernelTargets()) {
      ASSERT_TRUE(SelectKernelTarget(target));
      if (!GemmHasFormat(GemmFormat::kInt8)) continue;
      if (target.starts_with("avx2")) continue;  // its reciprocal is another one
      const std::vector<float> got = Multiply(problem, 1, true, true, false, GemmFormat::kInt8);
      if (first.empty()) first = got;
      EXPECT_EQ(got, first) << target << ", " << m << " x " << n << " x " << k;
    }
  }
  ASSERT_TRUE(SelectKernelTarget(in_use));
}

// Of one format: none where there is none of it.
using GemmInt8Test = testing::TestWithParam<GemmFormat>;
using GemmBf16Test = testing::TestWithParam<GemmFormat>;

std::vector<GemmFormat> IfThere(GemmFormat format) {
  const std::vector<GemmFormat> formats = FormatsOfTest();
  if (std::find(formats.begin(), formats.end(), format) == formats.end()) return {};
  return {format};
}
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GemmInt8Test);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GemmBf16Test);
INSTANTIATE_TEST_SUITE_P(Int8, GemmInt8Test, testing::ValuesIn(IfThere(GemmFormat::kInt8)));
INSTANTIATE_TEST_SUITE_P(Bf16, GemmBf16Test, testing::ValuesIn(IfThere(GemmFormat::kBf16)));

// C's definition, one integer product at a time: normal rows, as GELU leaves them, of one sign,
// with an element far from the others, and equal ones that reach the greatest sums.
TEST_P(GemmInt8Test, SumsAreExact) {
  for (const std::int64_t k : {1, 3, 8, 70, 580, 1153, 4304}) {
    Problem problem(39, 70, k);
    for (std::int64_t row = 0; row < problem.m; ++row) {
      for (std::int64_t i = 0; i < k; ++i) {
        float& value = problem.a[row * k + i];
        if (row % 5 == 1) value = std::max(value, -0.17f);
        if (row % 5 == 2) value = -std::abs(value);
        if (row % 5 == 3 && i == row % k) value = 100;
        if (row % 5 == 4) value = 2;
      }
    }
    for (std::int64_t i = 0; i < k; ++i) problem.w[7 * k + i] = -1;
    const std::vector<float> got = Multiply(problem, 1, false, false, false, GetParam());

    for (std::int64_t row = 0; row < problem.m; ++row) {
      const float* a = problem.a.data() + row * k;
      const float low = std::min(0.0f, *std::min_element(a, a + k));
      const float half = 0.5f * std::max(0.0f, *std::max_element(a, a + k)) - 0.5f * low;
      const float factor = 127.5f / half;
      const auto zero = static_cast<std::int64_t>(std::lrint(-low * factor));
      for (std::int64_t column = 0; column < problem.n; ++column) {
        std::vector<std::int8_t> w(static_cast<std::size_t>(k));
        std::vector<std::int32_t> sums(static_cast<std::size_t>((k + 1151) / 1152));
        float scale = 0;
        QuantizeRowInt8(
            problem.w.data() + column * k, k,
            {.integers = w.data(), .scale = &scale, .negated_sums = sums.data(), .stride = 1});
        float value = 0;
        for (std::int64_t first = 0; first < k; first += 4 * kGemmBlockSteps) {
          std::int64_t sum = 0;
          for (std::int64_t i = first; i < std::min(k, first + 4 * kGemmBlockSteps); ++i) {
            const std::int64_t integer = std::lrint(a[i] * factor) + zero;
            sum += (std::clamp<std::int64_t>(integer, 0, 255) - zero) * w[i];
          }
          value += static_cast<float>(sum);
        }
        EXPECT_EQ(got[row * problem.n + column], value * (half / 127.5f) * scale)
            << "k " << k << ", row " << row << ", column " << column;
      }
    }
  }
}

// Ties to even, what rounds up into the next power of two, infinity, and NaN whose upper half alone
// would be infinity.
TEST_P(GemmBf16Test, RoundsToTheNearest) {
  const std::vector<std::pair<std::uint32_t, std::uint16_t>> cases = {
      {0x3F808000, 0x3F80}, {0x3F818000, 0x3F82}, {0x3F808001, 0x3F81}, {0x3FFFFFFF, 0x4000},
      {0xC0490FDB, 0xC049}, {0x7F7FFFFF, 0x7F80}, {0xFF800000, 0xFF80}, {0x7F800001, 0x7FC0},
      {0x7FFFFFFF, 0x7FFF}, {0x00000000, 0x0000}, {0x80000000, 0x8000}};
  for (std::size_t count = 1; count <= cases.size(); ++count) {
    std::vector<float> row;
    for (std::size_t i = 0; i < count; ++i) row.push_back(std::bit_cast<float>(cases[i].first));
    std::vector<std::uint16_t> rounded(count);
    RoundRowToBf16(row.data(), static_cast<std::int64_t>(count), rounded.data());
    for (std::size_t i = 0; i < count; ++i) EXPECT_EQ(rounded[i], cases[i].second) << i;
  }
}

// x times one: bfloat16 from the smallest to the largest. What GELU leaves of a negative x has the
// error of e to a large power, which is no smaller than 2^-126.
TEST_P(GemmBf16Test, GeluIsGelu) {
  Problem problem(0, 1, 1);
  problem.w = {1};
  for (std::uint32_t bits = 0x0080; bits < 0x7F80; bits += 7) {
    problem.a.push_back(std::bit_cast<float>(bits << 16));
    problem.a.push_back(-problem.a.back());
  }
  problem.a.insert(problem.a.end(), {0.0f, 3.3895314e38f, NAN});
  problem.m = static_cast<std::int64_t>(problem.a.size());
  problem.bias = {0};
  const std::vector<float> got = Multiply(problem, 1, true, true, false, GetParam());
  ASSERT_TRUE(std::isnan(got.back()));
  for (std::size_t i = 0; i + 1 < got.size(); ++i) {
    const double x = problem.a[i];
    const double want = x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    EXPECT_NEAR(got[i], want, std::abs(want) * (x < -1 ? 3e-5 : 6e-6) + std::abs(x) * 0x1p-125)
        << x;
  }
}

TEST(GemmTest, ResidualRowsRepeatWithTheirPeriod) {
  const Problem problem(20, 5, 3);
  ThreadTeam team(1);
  std::vector<float> scratch(GemmScratchFloats(20, 3));
  PackedMatrix w(5, 3);
  w.SetRows(0, 5, std::vector<float>(15).data());  // zero weights: C is the residual
  std::vector<float> c(100);
  GemmCall call;
  call.m = 20;
  call.a = problem.a.data();
  call.a_stride = 3;
  call.w = &w;
  call.c = c.data();
  call.c_stride = 5;
  call.residual = problem.residual.data();
  call.residual_stride = 5;
  call.residual_period = 7;
  Gemm(team, call, scratch.data());
  for (std::int64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(c[i], problem.residual[i / 5 % 7 * 5 + i % 5]) << i;
  }
}

}  // namespace
}  // namespace siglip
