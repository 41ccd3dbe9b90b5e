#pragma once

// float32 -> IEEE 754 binary16, rounded to nearest, ties to even: what numpy's astype(float16)
// does.

#include <bit>
#include <cstdint>

namespace siglip::bulk {

inline std::uint16_t HalfBits(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  // NaN keeps its leading bits, and stays one if they are zero.
  if (magnitude > 0x7f800000u) {
    const std::uint32_t payload = magnitude >> 13 & 0x3ffu;
    return static_cast<std::uint16_t>(sign | 0x7c00u | (payload == 0 ? 1 : payload));
  }
  // From 65520 on, half a step above the largest half, all is infinity.
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
  // Exponent of the result; below the smallest normal half, 2^-14, the step is that of 2^-14.
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  const std::uint32_t mantissa = (magnitude & 0x7fffffu) | (magnitude >> 23 == 0 ? 0 : 0x800000u);
  const int shift = exponent >= -14 ? 13 : 13 + (-14 - exponent);
  if (shift > 25) return static_cast<std::uint16_t>(sign);  // less than half of the smallest
  const std::uint32_t base = exponent >= -14 ? static_cast<std::uint32_t>(exponent + 14) << 10 : 0;
  const std::uint32_t kept = mantissa >> shift;
  const std::uint32_t rest = mantissa & ((1u << shift) - 1);
  const std::uint32_t half_step = 1u << (shift - 1);
  const std::uint32_t up = rest > half_step || (rest == half_step && (kept & 1) != 0) ? 1 : 0;
  // `kept` has the leading one of normal numbers, which adds the missing one to the exponent.
  return static_cast<std::uint16_t>(sign | (base + kept + up));
}

inline float FloatOfHalf(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = half >> 10 & 31u;
  const std::uint32_t mantissa = half & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  // 2^-24 is the step of numbers without a leading one; the product is exact.
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign == 0 ? magnitude : -magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

}  // namespace siglip::bulk
