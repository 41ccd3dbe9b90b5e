// Four steps of AVX-512's full tile, written out: see the loop for AVX2 in micro_kernel-inl.h,
// which includes this file once per Highway target.

#include <cstdint>
#include <type_traits>

#if HWY_TARGET == HWY_AVX3
HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {

// DO(step, row, accumulator of columns 0 to 15, of 16 to 31).
#define SIGLIP_EACH_ROW(DO, step)                                                                 \
  DO(step, 0, 0, 1)                                                                               \
  DO(step, 1, 2, 3)                                                                               \
  DO(step, 2, 4, 5)                                                                               \
  DO(step, 3, 6, 7) DO(step, 4, 8, 9) DO(step, 5, 10, 11) DO(step, 6, 12, 13) DO(step, 7, 14, 15) \
      DO(step, 8, 16, 17) DO(step, 9, 18, 19) DO(step, 10, 20, 21) DO(step, 11, 22, 23)
// clang-format off
#define SIGLIP_ZERO(step, r, c0, c1)                                              \
  "vpxord %%zmm" #c0 ", %%zmm" #c0 ", %%zmm" #c0 "\n\t"                           \
  "vpxord %%zmm" #c1 ", %%zmm" #c1 ", %%zmm" #c1 "\n\t"
#define SIGLIP_STORE(step, r, c0, c1)                                             \
  "vmovups %%zmm" #c0 ", " #r "*128(%[tile])\n\t"                                 \
  "vmovups %%zmm" #c1 ", " #r "*128+64(%[tile])\n\t"
#define SIGLIP_BROADCAST(step, r)                                                 \
  "vbroadcastss (%c[a_stride]*" #step "+" #r ")*4(%[a]), %%zmm26\n\t"
#define SIGLIP_FLOAT_ROW(step, r, c0, c1)                                         \
  SIGLIP_BROADCAST(step, r)                                                       \
  "vfmadd231ps %%zmm24, %%zmm26, %%zmm" #c0 "\n\t"                                \
  "vfmadd231ps %%zmm25, %%zmm26, %%zmm" #c1 "\n\t"
#define SIGLIP_INT16_ROW(step, r, c0, c1)                                         \
  SIGLIP_BROADCAST(step, r)                                                       \
  "vpmaddwd %%zmm24, %%zmm26, %%zmm27\n\t"                                        \
  "vpmaddwd %%zmm25, %%zmm26, %%zmm28\n\t"                                        \
  "vpaddd %%zmm27, %%zmm" #c0 ", %%zmm" #c0 "\n\t"                                \
  "vpaddd %%zmm28, %%zmm" #c1 ", %%zmm" #c1 "\n\t"
#define SIGLIP_VNNI_ROW(step, r, c0, c1)                                          \
  SIGLIP_BROADCAST(step, r)                                                       \
  "vpdpwssd %%zmm24, %%zmm26, %%zmm" #c0 "\n\t"                                   \
  "vpdpwssd %%zmm25, %%zmm26, %%zmm" #c1 "\n\t"
#define SIGLIP_INT8_ROW(step, r, c0, c1)                                          \
  SIGLIP_BROADCAST(step, r)                                                       \
  "vpdpbusd %%zmm24, %%zmm26, %%zmm" #c0 "\n\t"                                   \
  "vpdpbusd %%zmm25, %%zmm26, %%zmm" #c1 "\n\t"
#define SIGLIP_TILE_STEP(ROW, step)                                               \
  "vmovups (%c[b_stride]*" #step ")*4(%[b]), %%zmm24\n\t"                         \
  "vmovups (%c[b_stride]*" #step "+16)*4(%[b]), %%zmm25\n\t"                      \
  SIGLIP_EACH_ROW(ROW, step)
#define SIGLIP_TILE_LOOP(ROW)                                                     \
  asm volatile(                                                                   \
      SIGLIP_EACH_ROW(SIGLIP_ZERO, 0)                                             \
      ".p2align 6\n"                                                              \
      "1:\n\t"                                                                    \
      "prefetcht1 (%[p])\n\t"                                                     \
      SIGLIP_TILE_STEP(ROW, 0)                                                    \
      SIGLIP_TILE_STEP(ROW, 1)                                                    \
      SIGLIP_TILE_STEP(ROW, 2)                                                    \
      SIGLIP_TILE_STEP(ROW, 3)                                                    \
      "add %[p_step], %[p]\n\t"                                                   \
      "add %[a_step], %[a]\n\t"                                                   \
      "add %[b_step], %[b]\n\t"                                                   \
      "dec %[n]\n\t"                                                              \
      "jnz 1b\n\t"                                                                \
      SIGLIP_EACH_ROW(SIGLIP_STORE, 0)                                            \
      : [a] "+r"(a), [b] "+r"(b), [n] "+r"(quads), [p] "+r"(prefetch)             \
      : [tile] "r"(tile), [p_step] "r"(prefetch_step), [a_stride] "i"(kAStride),  \
        [b_stride] "i"(kBStride), [a_step] "i"(kAStride * 16),                    \
        [b_step] "i"(kBStride * 16)                                               \
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",   \
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16",    \
        "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24",   \
        "xmm25", "xmm26", "xmm27", "xmm28", "cc", "memory")
// clang-format on

template <class Number, int kRows, int kVectors>
inline constexpr bool kIsFullTile = kRows == 12 && kVectors == 2;

// As for AVX2.
template <class Number, int kVectors, int kAStride, int kBStride>
HWY_INLINE void MultiplyFullTile(std::int64_t quads, const float* a, const float* b, float* tile,
                                 const char* prefetch, std::int64_t prefetch_step) {
  if constexpr (std::is_same_v<Number, Float32>) {
    SIGLIP_TILE_LOOP(SIGLIP_FLOAT_ROW);
  } else if constexpr (std::is_same_v<Number, Int16PairVnni>) {
    SIGLIP_TILE_LOOP(SIGLIP_VNNI_ROW);
  } else if constexpr (std::is_same_v<Number, Int8QuadVnni>) {
    SIGLIP_TILE_LOOP(SIGLIP_INT8_ROW);
  } else {
    SIGLIP_TILE_LOOP(SIGLIP_INT16_ROW);
  }
}
#undef SIGLIP_TILE_LOOP
#undef SIGLIP_TILE_STEP
#undef SIGLIP_INT8_ROW
#undef SIGLIP_VNNI_ROW
#undef SIGLIP_INT16_ROW
#undef SIGLIP_FLOAT_ROW
#undef SIGLIP_BROADCAST
#undef SIGLIP_STORE
#undef SIGLIP_ZERO
#undef SIGLIP_EACH_ROW

}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();
#endif
