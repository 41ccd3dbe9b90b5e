#pragma once

// The machine of attention_tile.h on a GPU, and conversions of the 16-bit types.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/device_code.h"

namespace siglip::cuda {

// The two 16-bit types by name.
template <HalfType kType>
struct Half;
template <>
struct Half<HalfType::kBf16> {
  using Type = __nv_bfloat16;
  static SIGLIP_DEVICE std::uint32_t Pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<const std::uint32_t&>(pair);
  }
  static SIGLIP_DEVICE float2 Unpack(std::uint32_t pair) {
    return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(pair));
  }
};
template <>
struct Half<HalfType::kFp16> {
  using Type = __half;
  static SIGLIP_DEVICE std::uint32_t Pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return reinterpret_cast<const std::uint32_t&>(pair);
  }
  static SIGLIP_DEVICE float2 Unpack(std::uint32_t pair) {
    return __half22float2(reinterpret_cast<const __half2&>(pair));
  }
};

// Confined to one lane; the 32 of a warp call the same functions together.
template <HalfType kType, class LaneType>
class DeviceWarp {
 public:
  using Lane = LaneType;

  SIGLIP_DEVICE explicit DeviceWarp(std::uint16_t* shared)
      : shared_(shared), address_(static_cast<std::uint32_t>(__cvta_generic_to_shared(shared))) {}

  template <class F>
  SIGLIP_DEVICE void ForEachLane(F f) {
    f(LaneId(), lane_);
  }

  template <bool kTrans, class Address, class To>
  SIGLIP_DEVICE void LdMatrix4(Address address, To to) {
    std::uint32_t* r = to(lane_);
    const std::uint32_t from = address_ + 2 * address(LaneId());
    if constexpr (kTrans) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                   : "r"(from)
                   : "memory");
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                   : "r"(from)
                   : "memory");
    }
  }
  template <bool kTrans, class Address, class To>
  SIGLIP_DEVICE void LdMatrix2(Address address, To to) {
    std::uint32_t* r = to(lane_);
    const std::uint32_t from = address_ + 2 * address(LaneId());
    if constexpr (kTrans) {
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

  template <class C, class A, class B>
  SIGLIP_DEVICE void Mma16(C c_of, A a_of, B b_of) {
    float* c = c_of(lane_);
    const std::uint32_t* a = a_of(lane_);
    const std::uint32_t* b = b_of(lane_);
    if constexpr (kType == HalfType::kBf16) {
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
          "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
          "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
  }
  template <class C, class A, class B>
  SIGLIP_DEVICE void Mma8(C c_of, A a_of, B b_of) {
    float* c = c_of(lane_);
    const std::uint32_t* a = a_of(lane_);
    const std::uint32_t* b = b_of(lane_);
    if constexpr (kType == HalfType::kBf16) {
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

  template <class Value>
  SIGLIP_DEVICE void QuadMax(Value value_of) {
    float& value = value_of(lane_);
    value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, 1));
    value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, 2));
  }
  template <class Value>
  SIGLIP_DEVICE void QuadSum(Value value_of) {
    float& value = value_of(lane_);
    value += __shfl_xor_sync(0xFFFFFFFFu, value, 1);
    value += __shfl_xor_sync(0xFFFFFFFFu, value, 2);
  }

  static SIGLIP_DEVICE std::uint32_t Pack(float low, float high) {
    return Half<kType>::Pack(low, high);
  }
  // Within 2 units in the last place of float32: far below the type of the weights.
  static SIGLIP_DEVICE float Exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  SIGLIP_DEVICE void Store(int offset, std::uint32_t pair) {
    *reinterpret_cast<std::uint32_t*>(shared_ + offset) = pair;
  }

 private:
  static SIGLIP_DEVICE int LaneId() { return static_cast<int>(threadIdx.x % 32); }

  std::uint16_t* shared_;
  std::uint32_t address_;
  Lane lane_;
};

}  // namespace siglip::cuda
