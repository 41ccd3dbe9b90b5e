#pragma once

// The machine of attention_tile.h on a GPU, and conversions of the 16-bit types.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/device_code.h"
#include "kernels/cuda/ptx.cuh"

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
      : shared_(shared), address_(ptx::SharedAddress(shared)) {}

  template <class F>
  SIGLIP_DEVICE void ForEachLane(F f) {
    f(LaneId(), lane_);
  }

  template <bool kTrans, class Address, class To>
  SIGLIP_DEVICE void LdMatrix4(Address address, To to) {
    ptx::LdMatrix<4, kTrans>(to(lane_), address_ + 2 * address(LaneId()));
  }
  template <bool kTrans, class Address, class To>
  SIGLIP_DEVICE void LdMatrix2(Address address, To to) {
    ptx::LdMatrix<2, kTrans>(to(lane_), address_ + 2 * address(LaneId()));
  }

  template <class C, class A, class B>
  SIGLIP_DEVICE void Mma16(C c_of, A a_of, B b_of) {
    ptx::Mma<kType, 16>(c_of(lane_), a_of(lane_), b_of(lane_));
  }
  template <class C, class A, class B>
  SIGLIP_DEVICE void Mma8(C c_of, A a_of, B b_of) {
    ptx::Mma<kType, 8>(c_of(lane_), a_of(lane_), b_of(lane_));
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
  // Its error is far below the type of the weights.
  static SIGLIP_DEVICE float Exp2(float x) { return ptx::Exp2(x); }
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
