// The kernels on a GPU against the plain references. Skipped, visibly, without one.

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <tuple>
#include <vector>

#include "engine/cuda/gemm.h"
#include "engine/cuda/host_resizer_for_test.h"
#include "kernels/cuda/host_warp_for_test.h"
#include "kernels/cuda/launch.h"
#include "kernels/kernel_test_util.h"

namespace siglip::cuda {
namespace {

class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
      GTEST_SKIP() << "SIGLIP_TEST_SKIPPED: this machine has no GPU";
    }
  }
  void TearDown() override {
    for (void* memory : memory_) cudaFree(memory);
  }

  template <class T>
  T* Upload(const std::vector<T>& values) {
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, values.size() * sizeof(T)), cudaSuccess);
    memory_.push_back(memory);
    EXPECT_EQ(cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
    return static_cast<T*>(memory);
  }
  template <class T>
  std::vector<T> Download(const void* memory, std::size_t count) {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    std::vector<T> values(count);
    EXPECT_EQ(cudaMemcpy(values.data(), memory, count * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }

 private:
  std::vector<void*> memory_;
};

class GpuKernelsTest : public GpuTest, public testing::WithParamInterface<HalfType> {
 protected:
  // Random values that the type has, and their bits on the GPU.
  std::vector<float> Random(std::int64_t count, std::uint32_t seed) const {
    std::vector<float> values = RandomFloats(count, seed);
    for (float& value : values) value = FromHalf(GetParam(), ToHalf(GetParam(), value));
    return values;
  }
  std::uint16_t* UploadHalf(const std::vector<float>& values) {
    std::vector<std::uint16_t> bits;
    for (const float value : values) bits.push_back(ToHalf(GetParam(), value));
    return Upload(bits);
  }
  std::vector<float> DownloadHalf(const void* memory, std::size_t count) {
    std::vector<float> values;
    for (const std::uint16_t bits : Download<std::uint16_t>(memory, count)) {
      values.push_back(FromHalf(GetParam(), bits));
    }
    return values;
  }
  // Of results that are rounded once: half a unit in the last place is 1 to 2 of this, a row's mean
  // 0.8 of it.
  double Rounding() const { return std::ldexp(1.0, GetParam() == HalfType::kBf16 ? -9 : -12); }
};

INSTANTIATE_TEST_SUITE_P(Types, GpuKernelsTest, testing::Values(HalfType::kBf16, HalfType::kFp16),
                         [](const auto& type) {
                           return type.param == HalfType::kBf16 ? "bf16" : "fp16";
                         });

double FromE4m3(std::uint8_t bits) {
  const int exponent = bits >> 3 & 15, fraction = bits & 7;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  return (bits & 128) != 0 ? -magnitude : magnitude;
}

// Half a unit in the last place of 4 bits, or of the smallest number, of what `scale` multiplies.
double RoundingToE4m3(double value, double scale) {
  return std::abs(value) / 16 + 1.01 * std::ldexp(scale, -10);
}

// The two GELUs of the field, by tanh and by erf, are at most 4.7e-4 apart: both factors are exact
// here and the result is float32, so that the right one is told from the other. The GPU has an
// instruction for tanh, which is right to 2^-11.
TEST_F(GpuTest, ProductsHaveBiasAndTheTanhGelu) {
  constexpr std::int64_t kRows = 64, kN = 64, kK = 64;
  std::vector<std::uint16_t> x(kRows * kK), weight(kN * kK);
  std::vector<float> bias(kN);
  std::vector<double> by_tanh(kRows * kN), by_erf(kRows * kN);
  const auto half = [](float value) { return ToHalf(HalfType::kFp16, value); };
  // x is the identity: row i of the result is column i of the weights, from -4 to 4.
  for (std::int64_t i = 0; i < kRows; ++i) x[i * kK + i] = half(1);
  for (std::int64_t i = 0; i < kN; ++i) {
    bias[i] = static_cast<float>(i % 4) / 64;
    for (std::int64_t j = 0; j < kK; ++j) {
      const float value = static_cast<float>(j - kK / 2) / 8;
      weight[i * kK + j] = half(value);
      const double sum = value + bias[i];
      const double tanh = std::tanh(std::sqrt(2 / M_PI) * (sum + 0.044715 * sum * sum * sum));
      by_tanh[j * kN + i] = 0.5 * sum * (1 + tanh);
      by_erf[j * kN + i] = 0.5 * sum * (1 + std::erf(sum / std::sqrt(2.0)));
    }
  }
  GemmShape shape;
  shape.factors = Type::kFp16;
  shape.y = Type::kFp32;
  shape.rows = kRows;
  shape.n = kN;
  shape.k = kK;
  shape.x_stride = kK;
  shape.y_stride = kN;
  shape.bias = shape.gelu = true;
  const auto gemm = Gemm::Make(shape);
  ASSERT_TRUE(gemm.ok()) << gemm.status();
  cublasLtHandle_t created = nullptr;
  ASSERT_EQ(cublasLtCreate(&created), CUBLAS_STATUS_SUCCESS);
  const LtHandle handle(created);
  const auto algorithms = gemm->Candidates(handle.get(), 1, 0);
  ASSERT_TRUE(algorithms.ok()) << algorithms.status();
  const GemmOperands operands{.x = Upload(x),
                              .weight = Upload(weight),
                              .bias = Upload(bias),
                              .y = Upload(std::vector<float>(kRows * kN, NAN))};
  ASSERT_TRUE(gemm->Run(handle.get(), algorithms->front(), operands, nullptr, 0, nullptr).ok());
  const std::vector<float> got = Download<float>(operands.y, kRows * kN);
  double to_tanh = 0, to_erf = 0;
  for (std::int64_t i = 0; i < kRows * kN; ++i) {
    ASSERT_NEAR(got[i], by_tanh[i], 2e-3) << i;
    to_tanh += std::pow(got[i] - by_tanh[i], 2);
    to_erf += std::pow(got[i] - by_erf[i], 2);
  }
  EXPECT_LT(to_tanh, to_erf);
}

TEST_P(GpuKernelsTest, AttentionOfEveryHeadDim) {
  for (const auto& [tokens, head_dim] : std::vector<std::pair<int, int>>{{729, 72},
                                                                         {196, 64},
                                                                         {64, 72},
                                                                         {16, 32},
                                                                         {1, 72},
                                                                         {65, 80},
                                                                         {256, 96},
                                                                         {100, 128},
                                                                         {33, 24},
                                                                         {1024, 64}}) {
    const std::int64_t items = 2, heads = 3, width = heads * head_dim;
    const std::vector<float> wide = Random(items * tokens * 3 * width, 7);
    const std::uint16_t* in = UploadHalf(wide);
    void* out = UploadHalf(std::vector<float>(items * tokens * width, NAN));
    for (const bool last_only : {false, true}) {
      const std::int64_t count = last_only ? 1 : tokens;
      const AttentionLaunch launch{GetParam(),     items, tokens, heads,      head_dim,
                                   tokens - count, count, in,     in + width, in + 2 * width,
                                   3 * width,      out,   width};
      ASSERT_EQ(Launch(launch, nullptr), cudaSuccess);
      const std::vector<float> got = DownloadHalf(out, items * count * width);
      for (std::int64_t item = 0; item < items; ++item) {
        const auto part = [&](std::int64_t which, std::int64_t begin) {
          reference::Matrix m;
          for (std::int64_t i = begin * width; i < tokens * width; ++i) {
            m.push_back(wide[((item * tokens + i / width) * 3 + which) * width + i % width]);
          }
          return m;
        };
        const reference::Matrix want =
            reference::Attention(part(0, tokens - count), part(1, 0), part(2, 0), heads, head_dim);
        EXPECT_LT(RelativeError({got.begin() + item * count * width,
                                 got.begin() + (item + 1) * count * width},
                                want),
                  2 * Rounding())  // weights and outputs are rounded; of one query they are few
            << tokens << " tokens, head of " << head_dim << ", last only " << last_only;
      }
    }
  }
}

TEST_P(GpuKernelsTest, LayerNormOfEveryWidthAndType) {
  for (const std::int64_t width : {16, 128, 768, 1024, 1152, 1536, 2048}) {
    const std::int64_t rows = 7, stride = width + 16;
    std::vector<float> x = Random(rows * stride, 1);
    for (float& value : x) value += 3;  // a mean that cancels
    for (float& value : x) value = FromHalf(GetParam(), ToHalf(GetParam(), value));
    const std::vector<float> weight = RandomFloats(width, 2), bias = RandomFloats(width, 3);
    reference::Matrix dense;
    for (std::int64_t i = 0; i < rows * width; ++i) {
      dense.push_back(x[i / width * stride + i % width]);
    }
    const reference::Matrix want =
        reference::LayerNorm(dense, ToDouble(weight), ToDouble(bias), width, 1e-6);
    void* y = UploadHalf(std::vector<float>(rows * width, NAN));
    float* scales = Upload(std::vector<float>(rows, NAN));
    for (const Type x_type : {Type::kFp32, TypeOf(GetParam())}) {
      const void* from =
          x_type == Type::kFp32 ? static_cast<const void*>(Upload(x)) : UploadHalf(x);
      NormLaunch launch{GetParam(), x_type,         TypeOf(GetParam()), rows,  width, from,
                        stride,     Upload(weight), Upload(bias),       1e-6f, y,     width,
                        scales};
      ASSERT_EQ(Launch(launch, nullptr), cudaSuccess);
      EXPECT_LT(RelativeError(DownloadHalf(y, rows * width), want), Rounding()) << width;
      launch.y_type = Type::kE4m3;
      ASSERT_EQ(Launch(launch, nullptr), cudaSuccess);
      const auto bytes = Download<std::uint8_t>(y, rows * width);
      const auto row_scales = Download<float>(scales, rows);
      for (std::int64_t i = 0; i < rows * width; ++i) {
        const double scale = row_scales[i / width];
        EXPECT_NEAR(FromE4m3(bytes[i]) * scale, want[i], RoundingToE4m3(want[i], scale));
      }
    }
  }
}

TEST_P(GpuKernelsTest, RowsAreQuantisedByTheirLargest) {
  for (const std::int64_t width : {16, 304, 4304}) {
    const std::int64_t rows = 5, stride = width + 16;
    std::vector<float> x = Random(rows * stride, 1);
    std::fill_n(x.begin() + stride, stride, 0.0f);
    for (std::int64_t i = 2 * stride; i < 3 * stride; ++i) x[i] = std::ldexp(x[i], 10);
    std::uint8_t* y = Upload(std::vector<std::uint8_t>(rows * width, 77));
    float* scales = Upload(std::vector<float>(rows, NAN));
    for (const Type x_type : {Type::kFp32, TypeOf(GetParam())}) {
      const void* from =
          x_type == Type::kFp32 ? static_cast<const void*>(Upload(x)) : UploadHalf(x);
      const QuantiseLaunch launch{GetParam(), x_type, rows, width, from, stride, y, scales};
      ASSERT_EQ(Launch(launch, nullptr), cudaSuccess);
      const auto bytes = Download<std::uint8_t>(y, rows * width);
      const auto row_scales = Download<float>(scales, rows);
      for (std::int64_t i = 0; i < rows * width; ++i) {
        const double want = x[i / width * stride + i % width], scale = row_scales[i / width];
        ASSERT_NEAR(FromE4m3(bytes[i]) * scale, want, RoundingToE4m3(want, scale)) << i;
      }
      for (std::int64_t row = 0; row < rows; ++row) {  // all of the range is used
        float largest = 0;
        for (std::int64_t i = 0; i < width; ++i) {
          largest = std::max(largest, std::abs(x[row * stride + i]));
        }
        EXPECT_FLOAT_EQ(row_scales[row], largest == 0 ? 1.0f : largest / 448);
      }
    }
  }
}

TEST_P(GpuKernelsTest, PatchesArePaddedAndOrdered) {
  const std::int64_t items = 2, channels = 3, side = 45, patch = 14, per_side = 3, padded = 592;
  std::vector<float> pixels(items * channels * side * side);
  std::iota(pixels.begin(), pixels.end(), 0.0f);
  for (float& pixel : pixels) pixel = std::fmod(pixel, 251.0f);  // exact in both types
  void* y = UploadHalf(std::vector<float>(items * per_side * per_side * padded, NAN));
  const PatchesLaunch launch{GetParam(), items,  channels,       side, patch,
                             per_side,   padded, Upload(pixels), y};
  ASSERT_EQ(Launch(launch, nullptr), cudaSuccess);
  const auto got = DownloadHalf(y, items * per_side * per_side * padded);
  for (std::int64_t i = 0; i < std::ssize(got); ++i) {
    const std::int64_t row = i / padded, column = i % padded, token = row % 9;
    const std::int64_t c = column / 196, py = column / 14 % 14, px = column % 14;
    const float want = column >= 588
                           ? 0.0f
                           : pixels[((row / 9 * channels + c) * side + token / 3 * 14 + py) * side +
                                    token % 3 * 14 + px];
    ASSERT_EQ(got[i], want) << i;
  }
}

TEST_P(GpuKernelsTest, EmbeddingsAddPositions) {
  const std::int64_t tokens = 3, rows = 6, width = 16;
  const std::vector<float> table = Random(5 * width, 1), addend = RandomFloats(tokens * width, 2);
  const std::vector<std::int64_t> ids = {4, 0, 2, 2, 1, 3};
  float* y = Upload(std::vector<float>(rows * width, NAN));
  EmbedLaunch launch{GetParam(),  Type::kFp32,       rows,           width, tokens,
                     Upload(ids), UploadHalf(table), Upload(addend), y};
  for (const bool with_ids : {true, false}) {
    if (!with_ids) launch.ids = nullptr;
    ASSERT_EQ(Launch(launch, nullptr), cudaSuccess);
    const auto got = Download<float>(y, rows * width);
    for (std::int64_t i = 0; i < rows * width; ++i) {
      const float token = with_ids ? table[ids[i / width] * width + i % width] : 0.0f;
      EXPECT_EQ(got[i], token + addend[i % (tokens * width)]);
    }
  }
}

TEST_P(GpuKernelsTest, PoolingEqualsItsDefinition) {
  const std::int64_t items = 2, tokens = 729, heads = 6, width = 72 * 6;
  const std::vector<float> x = Random(items * tokens * width, 1);
  const std::vector<float> scores = RandomFloats(items * tokens * heads, 2, 3);
  void* sums = UploadHalf(std::vector<float>(items * heads * width, NAN));
  const PoolLaunch launch{GetParam(), items,         tokens,         heads,
                          width,      UploadHalf(x), Upload(scores), sums};
  ASSERT_EQ(Launch(launch, nullptr), cudaSuccess);
  reference::Matrix want;
  for (std::int64_t i = 0; i < items * heads; ++i) {
    const std::int64_t first = i / heads * tokens;
    double sum = 0;
    reference::Matrix row(width, 0.0);
    for (std::int64_t t = first; t < first + tokens; ++t) {
      const double weight = std::exp(scores[t * heads + i % heads]);
      sum += weight;
      for (std::int64_t j = 0; j < width; ++j) row[j] += weight * x[t * width + j];
    }
    for (const double value : row) want.push_back(value / sum);
  }
  EXPECT_LT(RelativeError(DownloadHalf(sums, items * heads * width), want), Rounding());
}

TEST_F(GpuTest, PassesOfAResizeEqualTheirHostForm) {
  for (const auto& [width, height, side] :
       std::vector<std::tuple<int, int, int>>{{500, 375, 384},
                                              {375, 500, 384},
                                              {1, 300, 16},
                                              {300, 1, 16},
                                              {4000, 3000, 384},
                                              {16384, 1024, 512},
                                              {1024, 16384, 512},
                                              {5, 3, 224}}) {
    const std::vector<std::uint8_t> picture = MadeUpPicture(width, height);
    const std::uint8_t* in = Upload(picture);
    for (const ResizeAxis axis : {ResizeAxis::kHorizontal, ResizeAxis::kVertical}) {
      const bool along = axis == ResizeAxis::kHorizontal;
      const ResizePass pass = RandomPass(along ? width : height, side, 7);
      ResizePassArgs args{.axis = axis,
                          .in = picture.data(),
                          .in_row_bytes = 3 * width,
                          .first = pass.first.data(),
                          .count = pass.count.data(),
                          .taps = pass.taps.data(),
                          .out_size = side,
                          .out = nullptr,
                          .rows = along ? height : side,
                          .row_bytes = 3 * (along ? side : width)};
      std::vector<std::uint8_t> want(static_cast<std::size_t>(args.rows) * args.row_bytes);
      args.out = want.data();
      RunOnHost(args);
      args.in = in;
      args.first = Upload(pass.first);
      args.count = Upload(pass.count);
      args.taps = Upload(pass.taps);
      args.out = Upload(std::vector<std::uint8_t>(want.size(), 77));
      ASSERT_EQ(Launch(args, nullptr), cudaSuccess);
      EXPECT_TRUE(Download<std::uint8_t>(args.out, want.size()) == want)
          << width << "x" << height << (along ? " horizontal" : " vertical");
    }
  }
}

}  // namespace
}  // namespace siglip::cuda
