// Products on the tiles of AMX, the matrix unit of x86 processors since Sapphire Rapids. Included
// once per Highway target by the .cc files of src/kernels.
//
// A tile has 16 rows of 64 bytes. One instruction adds to 16 x 16 sums the products of 16 rows by
// 64 elements and of 64 elements by 16 columns, the latter in groups of four elements of a column:
// 16384 products of 8-bit integers in 16 cycles. An integer of 16 bits is 256 h + l, h its upper
// byte with the sign and l the lower without; so
//   sum (256 h + l) (256 h' + l') = 65536 sum h h' + 256 sum (h l' + l h') + sum l l'
// where no sum on the right leaves 32 bits (80 x 48, 80 x 255 and 48 x 255, 255 x 255, each 576
// times; a head's width in attention), and the left one does not, see GemmFormat::kInt16. What
// overflows in adding them comes back, modulo 2^32. Four instructions for 16384 products of 16-bit
// integers: four times what vpdpwssd does on registers of 512 bits, and the same sums.

#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "kernels/gemm_kernels.h"
#include "kernels/micro_kernel-inl.h"

#if defined(SIGLIP_KERNELS_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SIGLIP_KERNELS_AMX_INL_H_
#undef SIGLIP_KERNELS_AMX_INL_H_
#else
#define SIGLIP_KERNELS_AMX_INL_H_
#endif

// Targets whose processors may have AMX: see HasAmx in target.cc.
#undef SIGLIP_TARGET_HAS_AMX
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
#define SIGLIP_TARGET_HAS_AMX 1

HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {

// While it lives, this thread's eight tiles are in use, each of 16 rows of 64 bytes. Written out as
// all that follows, since a compiler must be told to know the instructions.
class AmxTiles {
 public:
  AmxTiles() {
    struct {
      std::uint8_t palette = 1;
      std::uint8_t start_row = 0;
      std::uint8_t reserved[14] = {};
      std::uint16_t row_bytes[16] = {kAmxRowBytes, kAmxRowBytes, kAmxRowBytes, kAmxRowBytes,
                                     kAmxRowBytes, kAmxRowBytes, kAmxRowBytes, kAmxRowBytes};
      std::uint8_t rows[16] = {kAmxRows, kAmxRows, kAmxRows, kAmxRows,
                               kAmxRows, kAmxRows, kAmxRows, kAmxRows};
    } config;
    static_assert(sizeof(config) == 64);
    asm volatile("ldtilecfg %0" : : "m"(config));
  }
  ~AmxTiles() { asm volatile("tilerelease"); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;
};

// The three sums on the right, each [16][16].
struct AmxSums {
  alignas(64) std::int32_t upper[kAmxRows * kAmxRows];
  std::int32_t mixed[kAmxRows * kAmxRows];
  std::int32_t lower[kAmxRows * kAmxRows];
};

// Sums over `pairs` >= 1 pairs of tiles of a and of b. After each, meanwhile() is run: what it does
// on vectors takes little time from the tiles. REQUIRES: AmxTiles; a and b were written before the
// caller was called, since the compiler does not know that they are read. 64-byte aligned for
// speed.
template <class Meanwhile>
HWY_INLINE void MultiplyAmxTiles(std::int64_t pairs, const void* a, const void* b, AmxSums& sums,
                                 Meanwhile&& meanwhile) {
  const std::int64_t row_bytes = kAmxRowBytes;
  const auto* rows = static_cast<const std::uint8_t*>(a);
  const auto* columns = static_cast<const std::uint8_t*>(b);
  // clang-format off
  asm volatile(
      "tilezero %tmm0\n\t"
      "tilezero %tmm1\n\t"
      "tilezero %tmm2");
  for (std::int64_t pair = 0; pair < pairs; ++pair) {
    asm volatile(
        "tileloadd (%[a],%[row],1), %%tmm4\n\t"
        "tileloadd (%[b],%[row],1), %%tmm6\n\t"
        "tdpbssd %%tmm6, %%tmm4, %%tmm0\n\t"
        "tileloadd %c[tile](%[b],%[row],1), %%tmm7\n\t"
        "tdpbsud %%tmm7, %%tmm4, %%tmm1\n\t"
        "tileloadd %c[tile](%[a],%[row],1), %%tmm5\n\t"
        "tdpbusd %%tmm6, %%tmm5, %%tmm1\n\t"
        "tdpbuud %%tmm7, %%tmm5, %%tmm2\n\t"
        :
        : [a] "r"(rows), [b] "r"(columns), [row] "r"(row_bytes), [tile] "i"(kAmxTileBytes));
    rows += kAmxPairBytes;
    columns += kAmxPairBytes;
    meanwhile();
  }
  asm volatile(
      "tilestored %%tmm0, (%[sums],%[row],1)\n\t"
      "tilestored %%tmm1, %c[tile](%[sums],%[row],1)\n\t"
      "tilestored %%tmm2, 2*%c[tile](%[sums],%[row],1)\n\t"
      :
      : [sums] "r"(&sums), [row] "r"(row_bytes), [tile] "i"(kAmxTileBytes)
      : "memory");
  // clang-format on
}

// Columns [column, column + kLanes) of a row of the left side.
HWY_INLINE IntVec AmxSum(const AmxSums& sums, std::int64_t row, std::int64_t column) {
  const IntTag d;
  const std::int64_t at = row * kAmxRows + column;
  const auto upper = hn::ShiftLeft<16>(hn::Load(d, sums.upper + at));
  const auto mixed = hn::ShiftLeft<8>(hn::Load(d, sums.mixed + at));
  return hn::Add(hn::Add(upper, mixed), hn::Load(d, sums.lower + at));
}

// int8 and bfloat16: a tile of C is 2 x 2 of AMX's, so that each load is for two products. Sums of
// integers or of floats.
struct AmxFourSums {
  alignas(64) std::int32_t sums[kAmxTwoRows * kAmxTwoRows];
};

enum class AmxProducts { kInt8, kBf16 };

// Whether sums start from zero, or go on from what they are.
enum class AmxStart { kZero, kSums };

// Sums over `groups` >= 1 groups of 16 steps: of a two tiles one behind the other, of b two side by
// side. next_a: the group of a that is read after these, which is asked for. Otherwise as
// MultiplyAmxTiles.
template <AmxProducts kProducts, class Meanwhile>
HWY_INLINE void MultiplyFourAmxTiles(std::int64_t groups, const void* a, const void* b,
                                     const void* next_a, AmxStart start, AmxFourSums& sums,
                                     Meanwhile&& meanwhile) {
  const std::int64_t row_bytes = kAmxRowBytes;
  const std::int64_t two_rows_bytes = 2 * kAmxRowBytes;
  const auto* rows = static_cast<const std::uint8_t*>(a);
  const auto* columns = static_cast<const std::uint8_t*>(b);
  // clang-format off
#define SIGLIP_AMX_GROUP(PRODUCT)                                                                \
  asm volatile(                                                                                  \
      "tileloadd (%[b],%[two_rows],1), %%tmm6\n\t"                                               \
      "tileloadd (%[a],%[row],1), %%tmm4\n\t"                                                    \
      PRODUCT " %%tmm6, %%tmm4, %%tmm0\n\t"                                                      \
      "tileloadd %c[row_i](%[b],%[two_rows],1), %%tmm7\n\t"                                      \
      PRODUCT " %%tmm7, %%tmm4, %%tmm1\n\t"                                                      \
      "tileloadd %c[tile](%[a],%[row],1), %%tmm5\n\t"                                            \
      PRODUCT " %%tmm6, %%tmm5, %%tmm2\n\t"                                                      \
      PRODUCT " %%tmm7, %%tmm5, %%tmm3\n\t"                                                      \
      :                                                                                          \
      : [a] "r"(rows), [b] "r"(columns), [row] "r"(row_bytes), [two_rows] "r"(two_rows_bytes),   \
        [row_i] "i"(kAmxRowBytes), [tile] "i"(kAmxTileBytes))
  if (start == AmxStart::kZero) {
    asm volatile(
        "tilezero %tmm0\n\t"
        "tilezero %tmm1\n\t"
        "tilezero %tmm2\n\t"
        "tilezero %tmm3");
  } else {
    asm volatile(
        "tileloadd (%[sums],%[two_rows],1), %%tmm0\n\t"
        "tileloadd %c[row_i](%[sums],%[two_rows],1), %%tmm1\n\t"
        "tileloadd 2*%c[tile](%[sums],%[two_rows],1), %%tmm2\n\t"
        "tileloadd 2*%c[tile]+%c[row_i](%[sums],%[two_rows],1), %%tmm3"
        :
        : [sums] "r"(&sums), [two_rows] "r"(two_rows_bytes), [row_i] "i"(kAmxRowBytes),
          [tile] "i"(kAmxTileBytes)
        : "memory");
  }
  for (std::int64_t group = 0; group < groups; ++group) {
    const auto* next = group + 1 < groups ? rows + kAmxPairBytes
                                          : static_cast<const std::uint8_t*>(next_a);
#pragma GCC unroll 32
    for (int i = 0; i < kAmxPairBytes; i += kCacheLine) __builtin_prefetch(next + i);
    if constexpr (kProducts == AmxProducts::kInt8) {
      SIGLIP_AMX_GROUP("tdpbusd");
    } else {
      SIGLIP_AMX_GROUP("tdpbf16ps");
    }
    rows += kAmxPairBytes;
    columns += kAmxPairBytes;
    meanwhile();
  }
#undef SIGLIP_AMX_GROUP
  asm volatile(
      "tilestored %%tmm0, (%[sums],%[two_rows],1)\n\t"
      "tilestored %%tmm1, %c[row_i](%[sums],%[two_rows],1)\n\t"
      "tilestored %%tmm2, 2*%c[tile](%[sums],%[two_rows],1)\n\t"
      "tilestored %%tmm3, 2*%c[tile]+%c[row_i](%[sums],%[two_rows],1)\n\t"
      :
      : [sums] "r"(&sums), [two_rows] "r"(two_rows_bytes), [row_i] "i"(kAmxRowBytes),
        [tile] "i"(kAmxTileBytes)
      : "memory");
  // clang-format on
}

// 64 integers -> their upper bytes at `to`, their lower ones a tile behind.
HWY_INLINE void SplitAmxRow(const std::int16_t* integers, std::uint8_t* to) {
  const hn::Repartition<std::uint8_t, FloatTag> d8;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(integers);
  constexpr std::int64_t kBytes = 4 * kLanes;
  for (std::int64_t i = 0; i < kAmxRowBytes; i += kBytes) {
    const auto first = hn::LoadU(d8, bytes + 2 * i);
    const auto second = hn::LoadU(d8, bytes + 2 * i + kBytes);
    hn::StoreU(hn::ConcatOdd(d8, second, first), d8, to + i);
    hn::StoreU(hn::ConcatEven(d8, second, first), d8, to + kAmxTileBytes + i);
  }
}

// float32 as two bfloat16: x = upper + lower within 2^-18 |x|. Three of the four products of two
// such, without that of the lower ones, are as near to the product: 2^-16 or so, where integers of
// 13 bits give 2^-14.
HWY_INLINE FloatVec NearestBfloat16(FloatVec x) {
  const FloatTag d;
  const hn::RebindToUnsigned<FloatTag> du;
  const auto bits = hn::Add(hn::BitCast(du, x), hn::Set(du, 0x8000u));
  return hn::BitCast(d, hn::And(bits, hn::Set(du, 0xFFFF0000u)));
}

// To the nearest, ties to even; NaN stays NaN. `count` floats, up to an even number of them: one
// past the end is zero.
HWY_INLINE void RoundToBfloat16(const float* from, std::int64_t count, std::uint16_t* to) {
  const FloatTag d;
  const hn::RebindToUnsigned<FloatTag> du;
  const hn::Rebind<std::int16_t, FloatTag> d16;
  HWY_ALIGN std::int16_t lanes[kLanes];
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const auto x = LoadColumns(from + i, count - i);
    const auto bits = hn::BitCast(du, x);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
    const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFF)));
    const auto quiet = hn::Or(bits, hn::Set(du, 0x00400000));
    const auto nearest =
        hn::IfThenElse(hn::IsNaN(x), hn::BitCast(d, quiet), hn::BitCast(d, rounded));
    const auto upper = hn::DemoteTo(d16, hn::ShiftRight<16>(hn::BitCast(IntTag(), nearest)));
    if (count - i >= kLanes) {
      hn::StoreU(upper, d16, reinterpret_cast<std::int16_t*>(to) + i);
    } else {
      hn::Store(upper, d16, lanes);
      std::memcpy(to + i, lanes, static_cast<std::size_t>((count - i + 1) / 2 * 2) * sizeof(*to));
    }
  }
}

enum class Bfloat16Part { kUpper, kLower };

// One part of `count` floats. Up to a whole vector more is written.
template <Bfloat16Part kPart>
HWY_INLINE void SplitFloats(const float* from, std::int64_t count, std::int16_t* to) {
  const hn::Rebind<std::int16_t, FloatTag> d16;
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const auto x = LoadColumns(from + i, count - i);
    auto part = NearestBfloat16(x);
    if constexpr (kPart == Bfloat16Part::kLower) part = NearestBfloat16(hn::Sub(x, part));
    hn::StoreU(hn::DemoteTo(d16, hn::ShiftRight<16>(hn::BitCast(IntTag(), part))), d16, to + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();
#else
#define SIGLIP_TARGET_HAS_AMX 0
#endif

#endif  // include guard per target
