// The register tile that GEMM and attention share, and powers of 2. Included once per Highway
// target by the .cc files of src/kernels.

#include <cstdint>
#include <cstring>
#include <iterator>
#include <type_traits>
#include <utility>

#include "hwy/highway.h"
#include "kernels/gemm.h"

#if defined(SIGLIP_KERNELS_MICRO_KERNEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SIGLIP_KERNELS_MICRO_KERNEL_INL_H_
#undef SIGLIP_KERNELS_MICRO_KERNEL_INL_H_
#else
#define SIGLIP_KERNELS_MICRO_KERNEL_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes: nothing wider exists, and the packed layout counts on a known width.
using FloatTag = hn::CappedTag<float, 16>;
using IntTag = hn::RebindToSigned<FloatTag>;
#if HWY_TARGET == HWY_SVE_256
// SVE's own types have no size, and arrays of them cannot be; these have, in sources compiled for
// registers of 256 bits (cmake/Dependencies.cmake), and convert from and to the others. Only the
// templates that look for the traits of a type, as GetLane, do not know them.
typedef svfloat32_t FloatVec __attribute__((arm_sve_vector_bits(256)));
typedef svint32_t IntVec __attribute__((arm_sve_vector_bits(256)));
#else
using FloatVec = hn::Vec<FloatTag>;
using IntVec = hn::Vec<IntTag>;
#endif
inline constexpr int kLanes = static_cast<int>(hn::MaxLanes(FloatTag()));
// The tile's accumulators, two vectors of B and one broadcast fill the registers without a spill:
// 24 + 2 (+ 1) of 32 on AVX-512 and SVE, 24 + 2 + 3 of 32 on NEON (rows of A, not a broadcast),
// 12 + 2 + 1 of 16 on AVX2 and SSE4.
#define SIGLIP_TILE_OF_12_ROWS \
  (HWY_TARGET <= HWY_AVX3 || HWY_TARGET == HWY_NEON || HWY_TARGET == HWY_SVE_256)
inline constexpr int kTileRows = SIGLIP_TILE_OF_12_ROWS ? 12 : 6;
inline constexpr int kTileVectors = 2;
inline constexpr int kTileColumns = kTileVectors * kLanes;

// What the kernel asks of the memory while it computes: `from` to `end`, one cache line every four
// steps, into the second-level cache.
struct Prefetch {
  const char* from = nullptr;
  const char* end = nullptr;
};
inline constexpr std::int64_t kCacheLine = 64;

// What a product's factors are: floats, or pairs of 16-bit integers in the bits of a float.
struct Float32 {
  static constexpr GemmFormat kFormat = GemmFormat::kFp32;
  using Sum = FloatVec;
  static HWY_INLINE Sum Zero() { return hn::Zero(FloatTag()); }
  static HWY_INLINE FloatVec ToFloat(Sum sum) { return sum; }
  // sum + row[0] * columns, one fused multiply-add each (where the target has it).
  static HWY_INLINE Sum MultiplyAdd(FloatVec row, FloatVec columns, Sum sum) {
    return hn::MulAdd(row, columns, sum);
  }
};

struct Int16Pair {
  static constexpr GemmFormat kFormat = GemmFormat::kInt16;
  using Tag = IntTag;
  using Sum = IntVec;
  static HWY_INLINE Sum Zero() { return hn::Zero(Tag()); }
  static HWY_INLINE FloatVec ToFloat(Sum sum) { return hn::ConvertTo(FloatTag(), sum); }
  // Exact: see GemmFormat::kInt16.
  static HWY_INLINE Sum MultiplyAdd(FloatVec row, FloatVec columns, Sum sum) {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4
    const hn::Repartition<std::int16_t, FloatTag> d16;
    Sum unused = sum;
    return hn::ReorderWidenMulAccumulate(Tag(), hn::BitCast(d16, row), hn::BitCast(d16, columns),
                                         sum, unused);
#else
    const auto a = hn::BitCast(Tag(), row);
    const auto b = hn::BitCast(Tag(), columns);
    const auto low = [](Sum pair) HWY_ATTR { return hn::ShiftRight<16>(hn::ShiftLeft<16>(pair)); };
    const auto high = [](Sum pair) HWY_ATTR { return hn::ShiftRight<16>(pair); };
    return hn::Add(sum, hn::Add(hn::Mul(low(a), low(b)), hn::Mul(high(a), high(b))));
#endif
  }
};

#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
// The same sums by one instruction, for processors with AVX512_VNNI or AVX-VNNI, which Highway's
// targets say nothing of. Written out, so that the compiler uses it nowhere else.
struct Int16PairVnni : Int16Pair {
  static HWY_INLINE Sum MultiplyAdd(FloatVec row, FloatVec columns, Sum sum) {
#if HWY_TARGET == HWY_AVX3
    asm("vpdpwssd %2, %1, %0" : "+v"(sum.raw) : "v"(row.raw), "v"(columns.raw));
#else
    asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum.raw) : "x"(row.raw), "x"(columns.raw));
#endif
    return sum;
  }
};
#else
using Int16PairVnni = Int16Pair;
#endif

// Targets whose processors may have VNNI or AMX: see HasVnni and HasAmx in target.cc.
#undef SIGLIP_TARGET_HAS_INT8
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
#define SIGLIP_TARGET_HAS_INT8 1
#else
#define SIGLIP_TARGET_HAS_INT8 0
#endif

// Four integers of 8 bits in a step, of rows without a sign, of columns with one. A row's integers
// are its zero z more than the elements, so z times the column's sum comes off at the end: products
// has z of rows and negated sums of columns.
struct Int8QuadVnni {
  static constexpr GemmFormat kFormat = GemmFormat::kInt8;
  using Tag = IntTag;
  using Sum = IntVec;
  static HWY_INLINE Sum Zero() { return hn::Zero(Tag()); }
  static HWY_INLINE FloatVec ToFloat(Sum sum) { return hn::ConvertTo(FloatTag(), sum); }
  static HWY_INLINE Sum MultiplyAdd([[maybe_unused]] FloatVec row,
                                    [[maybe_unused]] FloatVec columns, Sum sum) {
#if HWY_TARGET == HWY_AVX3
    asm("vpdpbusd %2, %1, %0" : "+v"(sum.raw) : "v"(row.raw), "v"(columns.raw));
#elif HWY_TARGET == HWY_AVX2
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.raw) : "x"(row.raw), "x"(columns.raw));
#endif
    return sum;
  }
};

// Inner products with half of the multiplications (S. Winograd, "A New Algorithm for Inner
// Product", 1968). For the pairs of integers p and q of two steps, of a row x and a column y:
//   x_p y_p + x_q y_q = (x_p + y_q) (x_q + y_p) - x_p x_q - y_p y_q
// where the last two, the cross products, are sums of a row or of a column alone. Where vpmaddwd is
// the limit, an addition of 16-bit integers instead of it is a gain. Integers are exact, and what
// overflows on the way comes back, modulo 2^32: no bit changes. REQUIRES: |x| + |y| <= 32767 for
// all integers of x and y. Full tiles only; others are as Int16Pair.
#if HWY_TARGET == HWY_AVX2
struct Int16PairWinograd : Int16Pair {};
// 8 accumulators, the 4 vectors of two steps of B, 4 sums.
inline constexpr int kWinogradTileRows = 4;
#else
using Int16PairWinograd = Int16Pair;
inline constexpr int kWinogradTileRows = kTileRows;
#endif

// Negated sums of cross products over those steps of a block of K that come in fours; or what
// Int8QuadVnni says.
struct CrossProducts {
  const std::int32_t* rows = nullptr;     // [tile rows]
  const std::int32_t* columns = nullptr;  // [kTileColumns]
};

#if HWY_TARGET == HWY_NEON
// sums[v] += columns[v] * lane kLane of rows.
template <int kLane, int kVectors>
HWY_INLINE void MultiplyLane(Float32, FloatVec rows, const FloatVec (&columns)[kVectors],
                             Float32::Sum (&sums)[kVectors]) {
#pragma GCC unroll 3
  for (int v = 0; v < kVectors; ++v) {
    sums[v].raw = vfmaq_laneq_f32(sums[v].raw, columns[v].raw, rows.raw, kLane);
  }
}

// The multiplications widen half a vector, so the pairs of all columns are split into their first
// and their second integers: once for all rows, the compiler sees to it.
template <int kLane, int kVectors>
HWY_INLINE void MultiplyLane(Int16Pair, FloatVec rows, const FloatVec (&columns)[kVectors],
                             Int16Pair::Sum (&sums)[kVectors]) {
  static_assert(kVectors <= 2);
  const int16x8_t row = vreinterpretq_s16_f32(rows.raw);
  const int16x8_t left = vreinterpretq_s16_f32(columns[0].raw);
  const int16x8_t right = vreinterpretq_s16_f32(columns[kVectors - 1].raw);
  const int16x8_t first = vuzp1q_s16(left, right);
  const int16x8_t second = vuzp2q_s16(left, right);
  sums[0].raw = vmlal_laneq_s16(sums[0].raw, vget_low_s16(first), row, 2 * kLane);
  sums[0].raw = vmlal_laneq_s16(sums[0].raw, vget_low_s16(second), row, 2 * kLane + 1);
  if constexpr (kVectors == 2) {
    sums[1].raw = vmlal_high_laneq_s16(sums[1].raw, first, row, 2 * kLane);
    sums[1].raw = vmlal_high_laneq_s16(sums[1].raw, second, row, 2 * kLane + 1);
  }
}

template <class Number, int kRows, int kVectors, int... kRow>
HWY_INLINE void MultiplyLanes(std::integer_sequence<int, kRow...>, const FloatVec* rows,
                              const FloatVec (&columns)[kVectors],
                              typename Number::Sum (&acc)[kRows][kVectors]) {
  (MultiplyLane<kRow % 4>(Number(), rows[kRow / 4], columns, acc[kRow]), ...);
}

// One step of the tile. A broadcast from memory takes an arithmetic pipe; so four rows come by one
// plain load and are multiplied lane by lane. REQUIRES: memory exists past row kRows up to a
// multiple of four.
template <class Number, int kRows, int kVectors>
HWY_INLINE void MultiplyStep(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b,
                             typename Number::Sum (&acc)[kRows][kVectors]) {
  const FloatTag d;
  FloatVec columns[kVectors];
#pragma GCC unroll 3
  for (int v = 0; v < kVectors; ++v) columns[v] = hn::LoadU(d, b + v * kLanes);
  FloatVec rows[(kRows + 3) / 4];
#pragma GCC unroll 3
  for (int q = 0; q < (kRows + 3) / 4; ++q) rows[q] = hn::LoadU(d, a + 4 * q);
  MultiplyLanes<Number>(std::make_integer_sequence<int, kRows>(), rows, columns, acc);
  // Left alone, g++ 12 loads the next step early, and has to spill two accumulators for it.
  asm volatile("" ::: "memory");
}
#else
// One step of the tile.
template <class Number, int kRows, int kVectors>
HWY_INLINE void MultiplyStep(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b,
                             typename Number::Sum (&acc)[kRows][kVectors]) {
  const FloatTag d;
  FloatVec columns[kVectors];
#pragma GCC unroll 3
  for (int v = 0; v < kVectors; ++v) columns[v] = hn::LoadU(d, b + v * kLanes);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const auto row = hn::Set(d, a[r]);
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      acc[r][v] = Number::MultiplyAdd(row, columns[v], acc[r][v]);
    }
  }
}
#endif

#if HWY_TARGET == HWY_AVX2
// Four steps of a full tile: 6 rows by 2 vectors, or 4 by 3. Compilers differ: g++ 12 spills an
// accumulator and moves others, which costs up to 15 % of the speed (and half of it with integers;
// on AVX-512, 134 accesses to the stack for 96 products of integers); written out, the loop runs at
// 99 % of the multiply-add peak. The same operations in the same order as MultiplyStep.
#define SIGLIP_FLOAT_ROW(step, r, c0, c1)    \
  "vbroadcastss (%c[a_stride]*" #step "+" #r \
  ")*4(%[a]), %%ymm14\n\t"                   \
  "vfmadd231ps %%ymm12, %%ymm14, %%ymm" #c0  \
  "\n\t"                                     \
  "vfmadd231ps %%ymm13, %%ymm14, %%ymm" #c1 "\n\t"
#define SIGLIP_FLOAT_ROW_OF_3(step, r, c0, c1, c2) \
  "vbroadcastss (%c[a_stride]*" #step "+" #r       \
  ")*4(%[a]), %%ymm15\n\t"                         \
  "vfmadd231ps %%ymm12, %%ymm15, %%ymm" #c0        \
  "\n\t"                                           \
  "vfmadd231ps %%ymm13, %%ymm15, %%ymm" #c1        \
  "\n\t"                                           \
  "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #c2 "\n\t"
#define SIGLIP_VNNI_ROW(step, r, c0, c1)         \
  "vpbroadcastd (%c[a_stride]*" #step "+" #r     \
  ")*4(%[a]), %%ymm14\n\t"                       \
  "%{vex%} vpdpwssd %%ymm12, %%ymm14, %%ymm" #c0 \
  "\n\t"                                         \
  "%{vex%} vpdpwssd %%ymm13, %%ymm14, %%ymm" #c1 "\n\t"
#define SIGLIP_INT8_ROW(step, r, c0, c1)         \
  "vpbroadcastd (%c[a_stride]*" #step "+" #r     \
  ")*4(%[a]), %%ymm14\n\t"                       \
  "%{vex%} vpdpbusd %%ymm12, %%ymm14, %%ymm" #c0 \
  "\n\t"                                         \
  "%{vex%} vpdpbusd %%ymm13, %%ymm14, %%ymm" #c1 "\n\t"
#define SIGLIP_TILE_STEP_OF_3(ROW, step)                                           \
  "vmovups (%c[b_stride]*" #step                                                   \
  ")*4(%[b]), %%ymm12\n\t"                                                         \
  "vmovups (%c[b_stride]*" #step                                                   \
  "+8)*4(%[b]), %%ymm13\n\t"                                                       \
  "vmovups (%c[b_stride]*" #step "+16)*4(%[b]), %%ymm14\n\t" ROW(step, 0, 0, 1, 2) \
      ROW(step, 1, 3, 4, 5) ROW(step, 2, 6, 7, 8) ROW(step, 3, 9, 10, 11)
#define SIGLIP_TILE_STEP(ROW, step)                                                               \
  "vmovups (%c[b_stride]*" #step                                                                  \
  ")*4(%[b]), %%ymm12\n\t"                                                                        \
  "vmovups (%c[b_stride]*" #step "+8)*4(%[b]), %%ymm13\n\t" ROW(step, 0, 0, 1) ROW(step, 1, 2, 3) \
      ROW(step, 2, 4, 5) ROW(step, 3, 6, 7) ROW(step, 4, 8, 9) ROW(step, 5, 10, 11)
// clang-format off
#define SIGLIP_TILE_LOOP(STEP, ROW)                                                               \
  asm volatile(                                                                                \
      "vxorps %%xmm0, %%xmm0, %%xmm0\n\t"                                                      \
      "vxorps %%xmm1, %%xmm1, %%xmm1\n\t"                                                      \
      "vxorps %%xmm2, %%xmm2, %%xmm2\n\t"                                                      \
      "vxorps %%xmm3, %%xmm3, %%xmm3\n\t"                                                      \
      "vxorps %%xmm4, %%xmm4, %%xmm4\n\t"                                                      \
      "vxorps %%xmm5, %%xmm5, %%xmm5\n\t"                                                      \
      "vxorps %%xmm6, %%xmm6, %%xmm6\n\t"                                                      \
      "vxorps %%xmm7, %%xmm7, %%xmm7\n\t"                                                      \
      "vxorps %%xmm8, %%xmm8, %%xmm8\n\t"                                                      \
      "vxorps %%xmm9, %%xmm9, %%xmm9\n\t"                                                      \
      "vxorps %%xmm10, %%xmm10, %%xmm10\n\t"                                                   \
      "vxorps %%xmm11, %%xmm11, %%xmm11\n\t"                                                   \
      ".p2align 5\n"                                                                           \
      "1:\n\t"                                                                                 \
      "prefetcht1 (%[p])\n\t"                                                                  \
      STEP(ROW, 0)                                                                             \
      STEP(ROW, 1)                                                                             \
      STEP(ROW, 2)                                                                             \
      STEP(ROW, 3)                                                                             \
      "add %[p_step], %[p]\n\t"                                                                \
      "add %[a_step], %[a]\n\t"                                                                \
      "add %[b_step], %[b]\n\t"                                                                \
      "dec %[n]\n\t"                                                                           \
      "jnz 1b\n\t"                                                                             \
      "vmovups %%ymm0, (%[tile])\n\t"                                                          \
      "vmovups %%ymm1, 32(%[tile])\n\t"                                                        \
      "vmovups %%ymm2, 64(%[tile])\n\t"                                                        \
      "vmovups %%ymm3, 96(%[tile])\n\t"                                                        \
      "vmovups %%ymm4, 128(%[tile])\n\t"                                                       \
      "vmovups %%ymm5, 160(%[tile])\n\t"                                                       \
      "vmovups %%ymm6, 192(%[tile])\n\t"                                                       \
      "vmovups %%ymm7, 224(%[tile])\n\t"                                                       \
      "vmovups %%ymm8, 256(%[tile])\n\t"                                                       \
      "vmovups %%ymm9, 288(%[tile])\n\t"                                                       \
      "vmovups %%ymm10, 320(%[tile])\n\t"                                                      \
      "vmovups %%ymm11, 352(%[tile])\n\t"                                                      \
      : [a] "+r"(a), [b] "+r"(b), [n] "+r"(quads), [p] "+r"(prefetch)                          \
      : [tile] "r"(tile), [p_step] "r"(prefetch_step), [a_stride] "i"(kAStride),               \
        [b_stride] "i"(kBStride), [a_step] "i"(kAStride * 16), [b_step] "i"(kBStride * 16)     \
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",        \
        "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc", "memory")
// clang-format on

// Two steps by one row: its two broadcasts, each plus the columns of the other step (8 and 9 of the
// first, 10 and 11 of the second).
#define SIGLIP_WINOGRAD_ROW(step, r)             \
  "vpbroadcastd (%c[a_stride]*" #step "+" #r     \
  ")*4(%[a]), %%ymm12\n\t"                       \
  "vpbroadcastd (%c[a_stride]*(" #step "+1)+" #r \
  ")*4(%[a]), %%ymm13\n\t"                       \
  "vpaddw %%ymm12, %%ymm10, %%ymm14\n\t"         \
  "vpaddw %%ymm13, %%ymm8, %%ymm15\n\t"          \
  "vpaddw %%ymm12, %%ymm11, %%ymm12\n\t"         \
  "vpaddw %%ymm13, %%ymm9, %%ymm13\n\t"          \
  "vpmaddwd %%ymm14, %%ymm15, %%ymm14\n\t"       \
  "vpmaddwd %%ymm12, %%ymm13, %%ymm12\n\t"       \
  "vpaddd %%ymm14, %[s" #r "0], %[s" #r          \
  "0]\n\t"                                       \
  "vpaddd %%ymm12, %[s" #r "1], %[s" #r "1]\n\t"
#define SIGLIP_WINOGRAD_STEPS(step)                                                          \
  "vmovdqu (%c[b_stride]*" #step                                                             \
  ")*4(%[b]), %%ymm8\n\t"                                                                    \
  "vmovdqu (%c[b_stride]*" #step                                                             \
  "+8)*4(%[b]), %%ymm9\n\t"                                                                  \
  "vmovdqu (%c[b_stride]*(" #step                                                            \
  "+1))*4(%[b]), %%ymm10\n\t"                                                                \
  "vmovdqu (%c[b_stride]*(" #step "+1)+8)*4(%[b]), %%ymm11\n\t" SIGLIP_WINOGRAD_ROW(step, 0) \
      SIGLIP_WINOGRAD_ROW(step, 1) SIGLIP_WINOGRAD_ROW(step, 2) SIGLIP_WINOGRAD_ROW(step, 3)

// MultiplyFullTile for Int16PairWinograd, 4 rows by 2 vectors; sums: what to add to, at first the
// cross products. Rows come from the second-level cache: they are asked for four steps of four
// ahead, in this tile or the next.
template <int kAStride, int kBStride>
HWY_INLINE void MultiplyFullTileWinograd(std::int64_t quads, const float* a, const float* b,
                                         IntVec (&sums)[kWinogradTileRows][2], const char* prefetch,
                                         std::int64_t prefetch_step) {
  // clang-format off
  asm volatile(
      ".p2align 5\n"
      "1:\n\t"
      "prefetcht1 (%[prefetch])\n\t"
      "prefetcht0 256(%[a])\n\t"
      SIGLIP_WINOGRAD_STEPS(0)
      SIGLIP_WINOGRAD_STEPS(2)
      "add %[prefetch_step], %[prefetch]\n\t"
      "add %[a_step], %[a]\n\t"
      "add %[b_step], %[b]\n\t"
      "dec %[n]\n\t"
      "jnz 1b\n\t"
      : [a] "+r"(a), [b] "+r"(b), [n] "+r"(quads), [prefetch] "+r"(prefetch),
        [s00] "+x"(sums[0][0].raw), [s01] "+x"(sums[0][1].raw), [s10] "+x"(sums[1][0].raw),
        [s11] "+x"(sums[1][1].raw), [s20] "+x"(sums[2][0].raw), [s21] "+x"(sums[2][1].raw),
        [s30] "+x"(sums[3][0].raw), [s31] "+x"(sums[3][1].raw)
      : [prefetch_step] "r"(prefetch_step), [a_stride] "i"(kAStride), [b_stride] "i"(kBStride),
        [a_step] "i"(kAStride * 16), [b_step] "i"(kBStride * 16)
      : "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc", "memory");
  // clang-format on
}
#undef SIGLIP_WINOGRAD_STEPS
#undef SIGLIP_WINOGRAD_ROW

template <class Number, int kRows, int kVectors>
inline constexpr bool kIsFullTile = std::is_same_v<Number, Int16PairWinograd>
                                        ? (kRows == kWinogradTileRows) && (kVectors == 2)
                                        : (kRows == 6 && kVectors == 2) ||
                                              (kRows == 4 && kVectors == 3 &&
                                               std::is_same_v<Number, Float32>);

// tile [kRows][kVectors * kLanes] = the sum over 4 * quads steps, of floats or of integers (then of
// 32-bit integers). REQUIRES: quads >= 1.
template <class Number, int kVectors, int kAStride, int kBStride>
HWY_INLINE void MultiplyFullTile(std::int64_t quads, const float* a, const float* b, float* tile,
                                 const char* prefetch, std::int64_t prefetch_step) {
  if constexpr (kVectors == 3) {
    SIGLIP_TILE_LOOP(SIGLIP_TILE_STEP_OF_3, SIGLIP_FLOAT_ROW_OF_3);
  } else if constexpr (std::is_same_v<Number, Float32>) {
    SIGLIP_TILE_LOOP(SIGLIP_TILE_STEP, SIGLIP_FLOAT_ROW);
  } else if constexpr (std::is_same_v<Number, Int8QuadVnni>) {
    SIGLIP_TILE_LOOP(SIGLIP_TILE_STEP, SIGLIP_INT8_ROW);
  } else {
    static_assert(std::is_same_v<Number, Int16PairVnni>);
    SIGLIP_TILE_LOOP(SIGLIP_TILE_STEP, SIGLIP_VNNI_ROW);
  }
}
#undef SIGLIP_TILE_LOOP
#undef SIGLIP_TILE_STEP
#undef SIGLIP_TILE_STEP_OF_3
#undef SIGLIP_FLOAT_ROW_OF_3
#undef SIGLIP_INT8_ROW
#undef SIGLIP_VNNI_ROW
#undef SIGLIP_FLOAT_ROW
#endif

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();

#include "kernels/micro_kernel_avx512-inl.h"

HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {

// acc[r][v] = sum over i < steps of a[i * kAStride + r] * b[i * kBStride + v * kLanes ...], in the
// order of i. Alignment of a and b is not needed. products: for a full tile of Int16PairWinograd,
// and for Int8QuadVnni.
template <class Number, int kRows, int kVectors, int kAStride, int kBStride>
HWY_INLINE void MultiplyTile(std::int64_t steps, const float* HWY_RESTRICT a,
                             const float* HWY_RESTRICT b, FloatVec (&acc)[kRows][kVectors],
                             Prefetch prefetch = {},
                             [[maybe_unused]] const CrossProducts& products = {}) {
  typename Number::Sum sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) sums[r][v] = Number::Zero();
  }
  std::int64_t i = 0;
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  if constexpr (kIsFullTile<Number, kRows, kVectors>) {
    if (steps >= 4) {
      const bool some = prefetch.from < prefetch.end;
      const char* from = some ? prefetch.from : reinterpret_cast<const char*>(b);
      const std::int64_t line = some ? kCacheLine : 0;
#if HWY_TARGET == HWY_AVX2
      if constexpr (std::is_same_v<Number, Int16PairWinograd>) {
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          const auto row = hn::Set(IntTag(), products.rows[r]);
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) {
            sums[r][v] = hn::Add(row, hn::LoadU(IntTag(), products.columns + v * kLanes));
          }
        }
        MultiplyFullTileWinograd<kAStride, kBStride>(steps / 4, a, b, sums, from, line);
        if (steps % 4 == 0) {  // as nearly always; the sums stay in registers
#pragma GCC unroll 4
          for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) acc[r][v] = Number::ToFloat(sums[r][v]);
          }
          return;
        }
      } else
#endif
      {
        HWY_ALIGN float tile[kRows * kVectors * kLanes];
        MultiplyFullTile<Number, kVectors, kAStride, kBStride>(steps / 4, a, b, tile, from, line);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
          for (int v = 0; v < kVectors; ++v) {
            sums[r][v] = hn::BitCast(hn::DFromV<typename Number::Sum>(),
                                     hn::Load(FloatTag(), tile + (kVectors * r + v) * kLanes));
          }
        }
      }
      i = steps / 4 * 4;
      a += i * kAStride;
      b += i * kBStride;
    }
  }
#endif
  for (; i + 4 <= steps; i += 4) {
    if (prefetch.from < prefetch.end) {
      __builtin_prefetch(prefetch.from, 0, 2);
      prefetch.from += kCacheLine;
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      MultiplyStep<Number>(a, b, sums);
      a += kAStride;
      b += kBStride;
    }
  }
  for (; i < steps; ++i) {
    MultiplyStep<Number>(a, b, sums);
    a += kAStride;
    b += kBStride;
  }
  if constexpr (std::is_same_v<Number, Int8QuadVnni>) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const auto zero = hn::Set(IntTag(), products.rows[r]);
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) {
        const auto column = hn::LoadU(IntTag(), products.columns + v * kLanes);
        sums[r][v] = hn::Add(sums[r][v], hn::Mul(zero, column));
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) acc[r][v] = Number::ToFloat(sums[r][v]);
  }
}

// The same, stored at `out` [kRows][kVectors * kLanes].
template <int kRows, int kVectors, int kAStride, int kBStride>
HWY_INLINE void MultiplyTileTo(std::int64_t k, const float* HWY_RESTRICT a,
                               const float* HWY_RESTRICT b, float* HWY_RESTRICT out) {
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  if constexpr (kIsFullTile<Float32, kRows, kVectors>) {
    if (k >= 4 && k % 4 == 0) {
      MultiplyFullTile<Float32, kVectors, kAStride, kBStride>(k / 4, a, b, out,
                                                              reinterpret_cast<const char*>(b), 0);
      return;
    }
  }
#endif
  FloatVec acc[kRows][kVectors];
  MultiplyTile<Float32, kRows, kVectors, kAStride, kBStride>(k, a, b, acc);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) {
      hn::StoreU(acc[r][v], FloatTag(), out + (r * kVectors + v) * kLanes);
    }
  }
}

// The first `count` lanes, if it has not so many; the others are zero.
HWY_INLINE FloatVec LoadColumns(const float* from, std::int64_t count) {
  const FloatTag d;
  if (count >= kLanes) return hn::LoadU(d, from);
  HWY_ALIGN float lanes[kLanes] = {};
  if (count > 0) std::memcpy(lanes, from, static_cast<std::size_t>(count) * sizeof(float));
  return hn::Load(d, lanes);
}

HWY_INLINE void StoreColumns(FloatVec value, float* to, std::int64_t count) {
  const FloatTag d;
  if (count >= kLanes) {
    hn::StoreU(value, d, to);
    return;
  }
  HWY_ALIGN float lanes[kLanes];
  hn::Store(value, d, lanes);
  if (count > 0) std::memcpy(to, lanes, static_cast<std::size_t>(count) * sizeof(float));
}

// rows x k of `from`, whatever the bits mean -> [k][kStride] at `to`, four rows by four columns
// at a time.
template <int kStride>
HWY_INLINE void PackRows(const float* const* from, std::int64_t rows, std::int64_t k, float* to) {
  std::int64_t r = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::CappedTag<float, 4> d4;
  const hn::Repartition<double, decltype(d4)> d2;
  for (; r + 4 <= rows; r += 4) {
    std::int64_t i = 0;
    for (; i + 4 <= k; i += 4) {
      const auto a = hn::LoadU(d4, from[r] + i);
      const auto b = hn::LoadU(d4, from[r + 1] + i);
      const auto c = hn::LoadU(d4, from[r + 2] + i);
      const auto e = hn::LoadU(d4, from[r + 3] + i);
      const auto ab_low = hn::BitCast(d2, hn::InterleaveLower(d4, a, b));
      const auto ab_high = hn::BitCast(d2, hn::InterleaveUpper(d4, a, b));
      const auto ce_low = hn::BitCast(d2, hn::InterleaveLower(d4, c, e));
      const auto ce_high = hn::BitCast(d2, hn::InterleaveUpper(d4, c, e));
      float* out = to + i * kStride + r;
      hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, ab_low, ce_low)), d4, out);
      hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, ab_low, ce_low)), d4, out + kStride);
      hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, ab_high, ce_high)), d4, out + 2 * kStride);
      hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, ab_high, ce_high)), d4, out + 3 * kStride);
    }
    for (; i < k; ++i) {
      for (int j = 0; j < 4; ++j) to[i * kStride + r + j] = from[r + j][i];
    }
  }
#endif
  for (; r < rows; ++r) {
    for (std::int64_t i = 0; i < k; ++i) to[i * kStride + r] = from[r][i];
  }
}

// How near a power of 2 is to be: 3e-6 relative is enough for what will be rounded to 8 bits.
enum class PowerError { kFloat, k8Bits };

// Coefficients of q, the last first: for kFloat those whose largest relative error in 2^f is least,
// 2e-9 before rounding, for k8Bits those of Taylor's series.
template <PowerError kError>
inline constexpr float kPowerOf2Series[] = {1.53532586e-4f, 1.33990031e-3f, 9.61843878e-3f,
                                            5.55033199e-2f, 2.40226477e-1f, 6.93147182e-1f};
template <>
inline constexpr float kPowerOf2Series<PowerError::k8Bits>[] = {
    1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f};

// 2^t = fraction * scale, within 8e-8 (k8Bits: 3e-6) relative on [-126, 126], the value at the
// border outside, NaN for NaN: t = n + f, |f| <= 1/2, scale = 2^n, fraction = 2^f = 1 + f q(f).
// Several at a time, step by step, since each alone is a chain of operations that wait for each
// other, longer than what a processor looks ahead.
template <PowerError kError, int kCount>
HWY_INLINE void PowersOf2(const FloatVec (&powers)[kCount], FloatVec (&fractions)[kCount],
                          FloatVec (&scales)[kCount]) {
  const FloatTag d;
  constexpr std::size_t kTerms = std::size(kPowerOf2Series<kError>);
  const auto low = hn::Set(d, -126.0f);
  const auto high = hn::Set(d, 126.0f);
  // n, the nearest integer, and a float's bias come to stand in the lower bits.
  const auto shift = hn::Set(d, 12582912.0f + 127);
  FloatVec f[kCount];
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) {
    auto t = powers[i];
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_SVE_256
    // Their Min and Max lose NaN.
    t = hn::IfThenElse(hn::Lt(t, low), low, t);
    t = hn::IfThenElse(hn::Lt(high, t), high, t);
#elif HWY_TARGET == HWY_NEON
    // Highway's Min and Max lose NaN, these do not.
    t.raw = vminq_f32(high.raw, vmaxq_f32(low.raw, t.raw));
#else
    // t is the second operand: x86 returns that one if either is NaN.
    t = hn::Min(high, hn::Max(low, t));
#endif
    f[i] = t;
  }
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) scales[i] = hn::Add(f[i], shift);
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) f[i] = hn::Sub(f[i], hn::Sub(scales[i], shift));
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) {
    scales[i] = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(IntTag(), scales[i])));
    fractions[i] = hn::Set(d, kPowerOf2Series<kError>[0]);
  }
#pragma GCC unroll 6
  for (std::size_t c = 1; c < kTerms; ++c) {
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      fractions[i] = hn::MulAdd(fractions[i], f[i], hn::Set(d, kPowerOf2Series<kError>[c]));
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) {
    fractions[i] = hn::MulAdd(fractions[i], f[i], hn::Set(d, 1.0f));
  }
}

// values = 2^values.
template <PowerError kError, int kCount>
HWY_INLINE void RaiseTo(FloatVec (&values)[kCount]) {
  FloatVec fractions[kCount];
  FloatVec scales[kCount];
  PowersOf2<kError>(values, fractions, scales);
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) values[i] = hn::Mul(fractions[i], scales[i]);
}
inline constexpr float kLog2E = 1.44269504f;

// x/2 (1 + tanh(u)) = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3): without the
// cancellation of 1 + tanh(u) for negative u. e^(-2u) is a power of 2.
template <PowerError kError, int kCount>
HWY_INLINE void GeluTanh(FloatVec (&values)[kCount]) {
  const FloatTag d;
  FloatVec powers[kCount];
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) {
    const auto x = values[i];
    const auto inner =
        hn::MulAdd(hn::Mul(x, x), hn::Set(d, -0.10294324f), hn::Set(d, -2.30220820f));
    powers[i] = hn::Mul(x, inner);
  }
  FloatVec fractions[kCount];
  FloatVec scales[kCount];
  PowersOf2<kError>(powers, fractions, scales);
#pragma GCC unroll 4
  for (int i = 0; i < kCount; ++i) {
    const auto divisor = hn::MulAdd(fractions[i], scales[i], hn::Set(d, 1.0f));
    if constexpr (kError == PowerError::k8Bits) {
      // Within 6e-6 relative, where x is not far below zero: a step of Newton's from the
      // processor's reciprocal.
      const auto near = hn::ApproximateReciprocal(divisor);
      values[i] = hn::Mul(hn::Mul(values[i], near), hn::NegMulAdd(divisor, near, hn::Set(d, 2.0f)));
    } else {
      values[i] = hn::Div(values[i], divisor);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
