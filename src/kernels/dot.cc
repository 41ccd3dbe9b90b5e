#include "kernels/dot.h"

#include <cstdint>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/dot.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"
#include "kernels/micro_kernel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {

HWY_INLINE FloatVec LoadLanes(const float* row) { return hn::LoadU(FloatTag(), row); }

HWY_INLINE FloatVec LoadLanes(const std::uint16_t* row) {
  const hn::Rebind<hwy::float16_t, FloatTag> half;
  const hn::Rebind<std::uint16_t, FloatTag> d16;
  const auto bits = hn::LoadU(d16, row);
  const auto numbers = hn::PromoteTo(FloatTag(), hn::BitCast(half, bits));
#if HWY_TARGET == HWY_SCALAR || (HWY_ARCH_X86 && HWY_TARGET > HWY_AVX2)
  // Where no instruction does it, Highway takes infinities and NaN for ordinary numbers.
  const auto exponent = hn::And(hn::PromoteTo(IntTag(), bits), hn::Set(IntTag(), 0x7c00));
  const auto odd = hn::RebindMask(FloatTag(), hn::Eq(exponent, hn::Set(IntTag(), 0x7c00)));
  return hn::IfThenElse(odd, hn::NaN(FloatTag()), numbers);
#else
  return numbers;
#endif
}

// The `count` < kLanes last numbers of a row, and zeros.
template <class T>
HWY_INLINE FloatVec LoadTail(const T* row, std::int64_t count) {
  T padded[kLanes] = {};
  std::memcpy(padded, row, static_cast<std::size_t>(count) * sizeof(T));
  return LoadLanes(padded);
}

HWY_INLINE float SumOf(const FloatVec (&sums)[4]) {
  const auto sum = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
  return hn::GetLane(hn::SumOfLanes(FloatTag(), sum));
}

template <class A, class B>
HWY_INLINE float DotOf(const A* a, const B* b, std::int64_t width) {
  const FloatTag d;
  FloatVec sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      sums[j] = hn::MulAdd(LoadLanes(a + i + j * kLanes), LoadLanes(b + i + j * kLanes), sums[j]);
    }
  }
  for (; i + kLanes <= width; i += kLanes) {
    sums[0] = hn::MulAdd(LoadLanes(a + i), LoadLanes(b + i), sums[0]);
  }
  if (i < width) {
    sums[1] = hn::MulAdd(LoadTail(a + i, width - i), LoadTail(b + i, width - i), sums[1]);
  }
  return SumOf(sums);
}

float DotFloatsTarget(const float* a, const float* b, std::int64_t width) {
  return DotOf(a, b, width);
}

template <class T>
HWY_INLINE DotAndSquare DotWithSquareOf(const T* row, const float* query, std::int64_t width) {
  const FloatTag d;
  FloatVec dots[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  FloatVec squares[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const auto numbers = LoadLanes(row + i + j * kLanes);
      dots[j] = hn::MulAdd(numbers, LoadLanes(query + i + j * kLanes), dots[j]);
      squares[j] = hn::MulAdd(numbers, numbers, squares[j]);
    }
  }
  for (; i + kLanes <= width; i += kLanes) {
    const auto numbers = LoadLanes(row + i);
    dots[0] = hn::MulAdd(numbers, LoadLanes(query + i), dots[0]);
    squares[0] = hn::MulAdd(numbers, numbers, squares[0]);
  }
  if (i < width) {
    const auto numbers = LoadTail(row + i, width - i);
    dots[1] = hn::MulAdd(numbers, LoadTail(query + i, width - i), dots[1]);
    squares[1] = hn::MulAdd(numbers, numbers, squares[1]);
  }
  return {.dot = SumOf(dots), .square = SumOf(squares)};
}

DotAndSquare DotWithSquareTarget(const float* row, const float* query, std::int64_t width) {
  return DotWithSquareOf(row, query, width);
}

DotAndSquare DotWithSquareHalfTarget(const std::uint16_t* row, const float* query,
                                     std::int64_t width) {
  return DotWithSquareOf(row, query, width);
}

float DotFloatHalfTarget(const float* a, const std::uint16_t* b, std::int64_t width) {
  return DotOf(a, b, width);
}

float DotHalvesTarget(const std::uint16_t* a, const std::uint16_t* b, std::int64_t width) {
  return DotOf(a, b, width);
}

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace siglip {
HWY_EXPORT(DotFloatsTarget);
HWY_EXPORT(DotWithSquareTarget);
HWY_EXPORT(DotWithSquareHalfTarget);
HWY_EXPORT(DotFloatHalfTarget);
HWY_EXPORT(DotHalvesTarget);

float Dot(const float* a, const float* b, std::int64_t width) {
  return HWY_DYNAMIC_DISPATCH(DotFloatsTarget)(a, b, width);
}

DotAndSquare DotWithSquare(const float* row, const float* query, std::int64_t width) {
  return HWY_DYNAMIC_DISPATCH(DotWithSquareTarget)(row, query, width);
}

DotAndSquare DotWithSquare(const std::uint16_t* row, const float* query, std::int64_t width) {
  return HWY_DYNAMIC_DISPATCH(DotWithSquareHalfTarget)(row, query, width);
}

float Dot(const float* a, const std::uint16_t* b, std::int64_t width) {
  return HWY_DYNAMIC_DISPATCH(DotFloatHalfTarget)(a, b, width);
}

float Dot(const std::uint16_t* a, const std::uint16_t* b, std::int64_t width) {
  return HWY_DYNAMIC_DISPATCH(DotHalvesTarget)(a, b, width);
}

}  // namespace siglip
#endif  // HWY_ONCE
