#pragma once

// Instructions that CUDA C++ has no functions for. tests/cuda_emulation has a host's version of
// this header.

#include <cstdint>

#include "kernels/cuda/device_code.h"

namespace siglip::cuda::ptx {

// Of shared memory, as the instructions below take it.
SIGLIP_DEVICE std::uint32_t SharedAddress(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

// kCount (2 or 4) matrices of 8 x 8 values of 16 bits into a register each, transposed if kTrans.
// Lane 8 * i + j has the address of row j of matrix i.
template <int kCount, bool kTrans>
SIGLIP_DEVICE void LdMatrix(std::uint32_t* r, std::uint32_t from) {
  if constexpr (kCount == 4 && kTrans) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
  } else if constexpr (kCount == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
  } else if constexpr (kTrans) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(from)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(from)
                 : "memory");
  }
}

// c [16, 8] += a [16, kDepth] * b [kDepth, 8], kDepth 16 or 8; a lane's share as PTX says.
template <HalfType kType, int kDepth>
SIGLIP_DEVICE void Mma(float* c, const std::uint32_t* a, const std::uint32_t* b) {
  if constexpr (kDepth == 16 && kType == HalfType::kBf16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else if constexpr (kDepth == 16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else if constexpr (kType == HalfType::kBf16) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]));
  }
}

// Within 2 units in the last place of float32; what would be denormal is zero.
SIGLIP_DEVICE float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 16 bytes from global to shared memory, or 16 zeros. They are there for this thread after
// WaitForCopies, for others after a barrier too.
SIGLIP_DEVICE void CopyAsync(std::uint16_t* to, const std::uint16_t* from, bool inside) {
  const int bytes = inside ? 16 : 0;  // what is left of 16 becomes zero
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from),
               "r"(bytes)
               : "memory");
}
SIGLIP_DEVICE void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
SIGLIP_DEVICE void WaitForCopies() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

}  // namespace siglip::cuda::ptx
