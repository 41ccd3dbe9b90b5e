#include "image/resize_kernels.h"

#include <cstdint>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "image/resize_kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
// Machines without 128-bit byte shuffles: plain loops.

std::uint8_t Clip8(std::uint32_t sum) {
  const std::int32_t value = static_cast<std::int32_t>(sum) >> kCoefficientBits;
  return static_cast<std::uint8_t>(value < 0 ? 0 : (value > 255 ? 255 : value));
}

std::uint32_t Tap(const std::int16_t* taps, int index) {
  const std::int16_t* group = taps + (index / 4) * 8 + index % 4;
  return static_cast<std::uint32_t>(group[0] * 2048 + group[4]);
}

void HorizontalPassTarget(const std::uint8_t* const* in, std::uint8_t* const* out,
                          const ResampleTable& table) {
  for (int row = 0; row < kHorizontalBatch; ++row) {
    for (int o = 0; o < table.out_size; ++o) {
      const std::uint8_t* pixel = in[row] + static_cast<std::size_t>(table.first[o]) * 3;
      for (int c = 0; c < 3; ++c) {
        std::uint32_t sum = 1U << (kCoefficientBits - 1);
        for (int t = 0; t < table.count[o]; ++t) sum += Tap(table.TapsOf(o), t) * pixel[3 * t + c];
        out[row][3 * o + c] = Clip8(sum);
      }
    }
  }
}

void VerticalPassTarget(const std::uint8_t* const* rows, int count, const std::int16_t* taps,
                        std::int64_t row_bytes, std::uint8_t* out) {
  for (std::int64_t x = 0; x < row_bytes; ++x) {
    std::uint32_t sum = 1U << (kCoefficientBits - 1);
    for (int t = 0; t < count; ++t) sum += Tap(taps, t) * rows[t][x];
    out[x] = Clip8(sum);
  }
}

#else

constexpr int kBlocks = HWY_TARGET == HWY_AVX2 ? 2 : (HWY_TARGET < HWY_AVX2 ? 4 : 1);

// One 128-bit block from each of kBlocks rows, row 0 lowest.
template <int kCount>
struct LoadRows {
  template <class D>
  static HWY_INLINE hn::Vec<D> At(D d, const std::uint8_t* const* rows, std::size_t offset) {
    const hn::Half<D> half;
    const auto low = LoadRows<kCount / 2>::At(half, rows, offset);
    const auto high = LoadRows<kCount / 2>::At(half, rows + kCount / 2, offset);
    return hn::Combine(d, high, low);
  }
};
template <>
struct LoadRows<1> {
  template <class D>
  static HWY_INLINE hn::Vec<D> At(D d, const std::uint8_t* const* rows, std::size_t offset) {
    return hn::LoadU(d, rows[0] + offset);
  }
};

// Two neighbouring taps as every pair of 16-bit lanes.
template <class D16>
HWY_INLINE hn::Vec<D16> PairOfTaps(D16 d16, const std::int16_t* taps) {
  std::int32_t pair;
  std::memcpy(&pair, taps, sizeof(pair));
  return hn::BitCast(d16, hn::Set(hn::RepartitionToWide<D16>(), pair));
}

// kBlocks rows: block b of each vector belongs to row b and holds 4 lanes (R, G, B, unused).
void HorizontalRows(const std::uint8_t* const* in, std::uint8_t* const* out,
                    const ResampleTable& table) {
  const hn::FixedTag<std::uint8_t, 16 * kBlocks> d8;
  const hn::RepartitionToWide<decltype(d8)> d16u;
  const hn::RebindToSigned<decltype(d16u)> d16;
  const hn::RepartitionToWide<decltype(d16)> d32;
  // Of 16 bytes RGBRGBRGBRGB...: 16-bit pairs (pixel 0, pixel 1) and (2, 3) for R, G and B.
  alignas(16) static constexpr std::uint8_t kFirstPair[16] = {
      0, 0x80, 3, 0x80, 1, 0x80, 4, 0x80, 2, 0x80, 5, 0x80, 0x80, 0x80, 0x80, 0x80};
  alignas(16) static constexpr std::uint8_t kSecondPair[16] = {
      6, 0x80, 9, 0x80, 7, 0x80, 10, 0x80, 8, 0x80, 11, 0x80, 0x80, 0x80, 0x80, 0x80};
  const auto first_pair = hn::LoadDup128(d8, kFirstPair);
  const auto second_pair = hn::LoadDup128(d8, kSecondPair);
  // Added at the end: which lanes of the sums make up a lane of the result differs between targets.
  const auto rounding = hn::Set(d32, 1 << (kCoefficientBits - 1));
  alignas(64) std::uint8_t clipped[16];

  for (int o = 0; o < table.out_size; ++o) {
    const std::int16_t* taps = table.TapsOf(o);
    std::size_t offset = static_cast<std::size_t>(table.first[o]) * 3;
    auto high0 = hn::Zero(d32);
    auto high1 = hn::Zero(d32);
    auto low0 = hn::Zero(d32);
    auto low1 = hn::Zero(d32);
    for (int t = 0; t < table.count[o]; t += 4, taps += 8, offset += 12) {
      const auto pixels = LoadRows<kBlocks>::At(d8, in, offset);
      const auto p01 = hn::BitCast(d16, hn::TableLookupBytesOr0(pixels, first_pair));
      const auto p23 = hn::BitCast(d16, hn::TableLookupBytesOr0(pixels, second_pair));
      high0 = hn::ReorderWidenMulAccumulate(d32, p01, PairOfTaps(d16, taps), high0, high1);
      high0 = hn::ReorderWidenMulAccumulate(d32, p23, PairOfTaps(d16, taps + 2), high0, high1);
      low0 = hn::ReorderWidenMulAccumulate(d32, p01, PairOfTaps(d16, taps + 4), low0, low1);
      low0 = hn::ReorderWidenMulAccumulate(d32, p23, PairOfTaps(d16, taps + 6), low0, low1);
    }
    const auto high = hn::RearrangeToOddPlusEven(high0, high1);
    const auto low = hn::Add(rounding, hn::RearrangeToOddPlusEven(low0, low1));
    const auto sum = hn::ShiftRight<kCoefficientBits>(hn::Add(hn::ShiftLeft<11>(high), low));
    const hn::Rebind<std::uint8_t, decltype(d32)> d8_of_32;
    hn::StoreU(hn::DemoteTo(d8_of_32, sum), d8_of_32, clipped);
    const std::size_t at = static_cast<std::size_t>(o) * 3;
    const std::size_t bytes = o + 1 < table.out_size ? 4 : 3;  // the 4th byte is overwritten next
    for (int b = 0; b < kBlocks; ++b) {
      if (bytes == 4) {
        std::memcpy(out[b] + at, clipped + 4 * b, 4);
      } else {
        std::memcpy(out[b] + at, clipped + 4 * b, 3);
      }
    }
  }
}

void HorizontalPassTarget(const std::uint8_t* const* in, std::uint8_t* const* out,
                          const ResampleTable& table) {
  for (int row = 0; row < kHorizontalBatch; row += kBlocks)
    HorizontalRows(in + row, out + row, table);
}

void VerticalPassTarget(const std::uint8_t* const* rows, int count, const std::int16_t* taps,
                        std::int64_t row_bytes, std::uint8_t* out) {
  const hn::CappedTag<std::int32_t, 16> d32;
  const hn::Repartition<std::int16_t, decltype(d32)> d16;
  const hn::Rebind<std::uint8_t, decltype(d32)> d8;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d32));
  const auto rounding = hn::Set(d32, 1 << (kCoefficientBits - 1));
  for (std::int64_t x = 0; x < row_bytes; x += lanes) {
    auto high0 = hn::Zero(d32);
    auto high1 = hn::Zero(d32);
    auto low0 = hn::Zero(d32);
    auto low1 = hn::Zero(d32);
    for (int t = 0; t < count; t += 2) {
      const std::int16_t* pair = taps + (t / 4) * 8 + (t & 2);
      const int next = t + 1 < count ? t + 1 : t;  // its tap is zero
      const auto a = hn::PromoteTo(d32, hn::LoadU(d8, rows[t] + x));
      const auto b = hn::PromoteTo(d32, hn::LoadU(d8, rows[next] + x));
      const auto both = hn::BitCast(d16, hn::Or(a, hn::ShiftLeft<16>(b)));
      high0 = hn::ReorderWidenMulAccumulate(d32, both, PairOfTaps(d16, pair), high0, high1);
      low0 = hn::ReorderWidenMulAccumulate(d32, both, PairOfTaps(d16, pair + 4), low0, low1);
    }
    const auto high = hn::RearrangeToOddPlusEven(high0, high1);
    const auto low = hn::Add(rounding, hn::RearrangeToOddPlusEven(low0, low1));
    const auto sum = hn::ShiftRight<kCoefficientBits>(hn::Add(hn::ShiftLeft<11>(high), low));
    hn::StoreU(hn::DemoteTo(d8, sum), d8, out + x);
  }
}

#endif  // HWY_TARGET == HWY_SCALAR

const char* TargetNameTarget() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace siglip {
HWY_EXPORT(HorizontalPassTarget);
HWY_EXPORT(VerticalPassTarget);
HWY_EXPORT(TargetNameTarget);

void HorizontalPass(const std::uint8_t* const in[kHorizontalBatch],
                    std::uint8_t* const out[kHorizontalBatch], const ResampleTable& table) {
  HWY_DYNAMIC_DISPATCH(HorizontalPassTarget)(in, out, table);
}

void VerticalPass(const std::uint8_t* const* rows, int count, const std::int16_t* taps,
                  std::int64_t row_bytes, std::uint8_t* out) {
  HWY_DYNAMIC_DISPATCH(VerticalPassTarget)(rows, count, taps, row_bytes, out);
}

std::string ResizeTargetName() { return HWY_DYNAMIC_DISPATCH(TargetNameTarget)(); }

}  // namespace siglip
#endif  // HWY_ONCE
