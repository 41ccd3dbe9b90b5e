#pragma once

// src/kernels/cuda/ptx.cuh for the emulated device: what the PTX manual says of each instruction.

#include "emulated_device.h"
#include "kernels/cuda/device_code.h"

namespace siglip::cuda::ptx {

inline std::uint32_t SharedAddress(const void* shared) {
  return static_cast<std::uint32_t>(static_cast<const char*>(shared) - emulation::DynamicShared());
}

template <int kCount, bool kTrans>
void LdMatrix(std::uint32_t* r, std::uint32_t from) {
  const int lane = emulation::LaneId();
  if (lane < 8 * kCount && from % 16 != 0) emulation::Fail("a row of a matrix is not aligned");
  emulation::Words(lane)[0] = from;
  emulation::SyncWarp();
  const auto value = [&](int matrix, int row, int column) -> std::uint32_t {
    const std::size_t at =
        emulation::Words(8 * matrix + row)[0] + static_cast<std::size_t>(2 * column);
    if (at + 2 > emulation::DynamicSharedBytes()) emulation::Fail("a matrix outside shared memory");
    std::uint16_t bits;
    std::memcpy(&bits, emulation::DynamicShared() + at, 2);
    return bits;
  };
  const int i = lane / 4;
  const int j = 2 * (lane % 4);
  for (int matrix = 0; matrix < kCount; ++matrix) {
    r[matrix] = kTrans ? value(matrix, j + 1, i) << 16 | value(matrix, j, i)
                       : value(matrix, i, j + 1) << 16 | value(matrix, i, j);
  }
  emulation::SyncWarp();
}

template <HalfType kType>
float HalfOf(std::uint32_t pair, int which) {
  const auto bits = static_cast<std::uint16_t>(pair >> (16 * which));
  if constexpr (kType == HalfType::kBf16) {
    return __bfloat162float(__nv_bfloat16(__nv_bfloat16_raw{bits}));
  } else {
    return __half2float(__half(__half_raw{bits}));
  }
}

// A[row][k] is in lane 4 * (row % 8) + k % 8 / 2, register row / 8 + 2 * (k / 8); B[k][column] in
// lane 4 * column + k % 8 / 2, register k / 8; C[row][column] in lane 4 * (row % 8) + column / 2,
// register 2 * (row / 8) + column % 2.
template <HalfType kType, int kDepth>
void Mma(float* c, const std::uint32_t* a, const std::uint32_t* b) {
  constexpr int kAWords = kDepth / 4;
  const int lane = emulation::LaneId();
  std::uint32_t* const words = emulation::Words(lane);
  for (int i = 0; i < kAWords; ++i) words[i] = a[i];
  for (int i = 0; i < kDepth / 8; ++i) words[kAWords + i] = b[i];
  emulation::SyncWarp();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2);
    const int column = 2 * (lane % 4) + i % 2;
    for (int k = 0; k < kDepth; ++k) {
      const int part = k % 8 / 2;
      const std::uint32_t a_pair = emulation::Words(row % 8 * 4 + part)[row / 8 + 2 * (k / 8)];
      const std::uint32_t b_pair = emulation::Words(column * 4 + part)[kAWords + k / 8];
      c[i] += HalfOf<kType>(a_pair, k % 2) * HalfOf<kType>(b_pair, k % 2);
    }
  }
  emulation::SyncWarp();
}

inline float Exp2(float x) { return std::exp2(x); }

// Done as late as they may be.
inline void CopyAsync(std::uint16_t* to, const std::uint16_t* from, bool inside) {
  emulation::DemandAligned(to, 16);
  emulation::DemandAligned(from, 16);
  if (std::size_t{SharedAddress(to)} + 16 > emulation::DynamicSharedBytes()) {
    emulation::Fail("a copy outside shared memory");
  }
  emulation::Current().copies.emplace_back([=] {
    if (inside) {
      std::memcpy(to, from, 16);
    } else {
      std::memset(to, 0, 16);
    }
  });
}
inline void CommitCopies() {}
inline void WaitForCopies() {
  for (const auto& copy : emulation::Current().copies) copy();
  emulation::Current().copies.clear();
}

}  // namespace siglip::cuda::ptx
