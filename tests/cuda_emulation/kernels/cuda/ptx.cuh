#pragma once

// src/kernels/cuda/ptx.cuh for the emulated device: what the PTX manual says of each instruction.

#include "emulated_device.h"
#include "kernels/cuda/device_code.h"
#include "kernels/cuda/host_warp_for_test.h"

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
  for (int matrix = 0; matrix < kCount; ++matrix) {
    r[matrix] = LoadedPair<kTrans>(lane, [matrix](int row, int column) {
      const std::size_t at =
          emulation::Words(8 * matrix + row)[0] + static_cast<std::size_t>(2 * column);
      if (at + 2 > emulation::DynamicSharedBytes()) {
        emulation::Fail("a matrix outside shared memory");
      }
      std::uint16_t bits;
      std::memcpy(&bits, emulation::DynamicShared() + at, 2);
      return bits;
    });
  }
  emulation::SyncWarp();
}

template <HalfType kType, int kDepth>
void Mma(float* c, const std::uint32_t* a, const std::uint32_t* b) {
  constexpr int kAWords = kDepth / 4;
  const int lane = emulation::LaneId();
  std::uint32_t* const words = emulation::Words(lane);
  for (int i = 0; i < kAWords; ++i) words[i] = a[i];
  for (int i = 0; i < kDepth / 8; ++i) words[kAWords + i] = b[i];
  emulation::SyncWarp();
  const auto at = [](FragmentPlace place, int first) {
    const std::uint32_t pair = emulation::Words(place.lane)[first + place.r];
    return FromHalf(kType, static_cast<std::uint16_t>(pair >> 16 * place.half));
  };
  for (int r = 0; r < 4; ++r) {
    const int row = RowInC(lane, r), column = ColumnInC(lane, r);
    for (int k = 0; k < kDepth; ++k) {
      c[r] += at(PlaceInA(row, k), 0) * at(PlaceInB(k, column), kAWords);
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
