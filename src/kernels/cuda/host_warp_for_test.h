#pragma once

// A warp on the CPU: 32 lanes in step. Instructions do what the PTX ISA says of ldmatrix and of
// mma.m16n8k16 / m16n8k8 with 16-bit factors and float32 sums. Matrices are written out by the
// ISA's tables, so that a kernel with a wrong index map gives wrong sums here too.

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cuda/device_code.h"

namespace siglip::cuda {

// Rounds to nearest, ties to even. Software for both types, NaN kept.
inline std::uint16_t ToHalf(HalfType type, float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if (type == HalfType::kBf16) {
    if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
    return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
  }
  const auto half = static_cast<_Float16>(value);
  return std::bit_cast<std::uint16_t>(half);
}

inline float FromHalf(HalfType type, std::uint16_t bits) {
  if (type == HalfType::kBf16) return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  return static_cast<float>(std::bit_cast<_Float16>(bits));
}

// Value `half` of register r of a lane.
struct FragmentPlace {
  int lane = 0, r = 0, half = 0;
};

// PTX ISA, "Matrix fragments for mma.m16n8k8" and "...m16n8k16": A[row][k], B[k][column].
constexpr FragmentPlace PlaceInA(int row, int k) {
  return {.lane = row % 8 * 4 + k % 8 / 2, .r = row / 8 + k / 8 * 2, .half = k % 2};
}
constexpr FragmentPlace PlaceInB(int k, int column) {
  return {.lane = column * 4 + k % 8 / 2, .r = k / 8, .half = k % 2};
}
// Of register r of C.
constexpr int RowInC(int lane, int r) { return lane / 4 + 8 * (r / 2); }
constexpr int ColumnInC(int lane, int r) { return 2 * (lane % 4) + r % 2; }

// What ldmatrix gives a lane of a matrix, of which element(row, column) are the bits: row lane / 4,
// columns 2 (lane % 4) and the next; transposed: column and rows.
template <bool kTrans, class Element>
std::uint32_t LoadedPair(int lane, Element element) {
  const int i = lane / 4, j = 2 * (lane % 4);
  const std::uint32_t low = kTrans ? element(j, i) : element(i, j);
  const std::uint32_t high = kTrans ? element(j + 1, i) : element(i, j + 1);
  return high << 16 | low;
}

template <HalfType kType, class LaneType>
class HostWarp {
 public:
  using Lane = LaneType;

  explicit HostWarp(std::vector<std::uint16_t>& shared) : shared_(shared) {}

  template <class F>
  void ForEachLane(F f) {
    for (int i = 0; i < 32; ++i) f(i, lanes_[i]);
  }

  // Register r is of matrix r, whose row i is at lane 8 r + i's address.
  template <bool kTrans, class Address, class To>
  void LdMatrix4(Address address, To to) {
    LdMatrix<kTrans, 4>(address, to);
  }
  template <bool kTrans, class Address, class To>
  void LdMatrix2(Address address, To to) {
    LdMatrix<kTrans, 2>(address, to);
  }

  template <class C, class A, class B>
  void Mma16(C c, A a, B b) {
    Mma<16>(c, a, b);
  }
  template <class C, class A, class B>
  void Mma8(C c, A a, B b) {
    Mma<8>(c, a, b);
  }

  template <class Value>
  void QuadMax(Value value) {
    Quad(value, [](float x, float y) { return std::fmax(x, y); });
  }
  template <class Value>
  void QuadSum(Value value) {
    Quad(value, [](float x, float y) { return x + y; });
  }

  static std::uint32_t Pack(float low, float high) {
    return static_cast<std::uint32_t>(ToHalf(kType, high)) << 16 | ToHalf(kType, low);
  }
  static float Exp2(float x) { return std::exp2(x); }
  void Store(int offset, std::uint32_t pair) {
    shared_.at(offset) = static_cast<std::uint16_t>(pair);
    shared_.at(offset + 1) = static_cast<std::uint16_t>(pair >> 16);
  }

 private:
  float Element(std::uint32_t pair, int i) const {
    return FromHalf(kType, static_cast<std::uint16_t>(pair >> 16 * i));
  }

  template <bool kTrans, int kCount, class Address, class To>
  void LdMatrix(Address address, To to) {
    for (int l = 0; l < 32; ++l) {
      for (int r = 0; r < kCount; ++r) {
        to(lanes_[l])[r] = LoadedPair<kTrans>(l, [&](int row, int column) {
          const int at = address(8 * r + row);
          misaligned_ |= at % 8 != 0;  // 16 bytes
          return shared_.at(at + column);
        });
      }
    }
  }

  template <int kDepth, class C, class A, class B>
  void Mma(C c, A a, B b) {
    std::array<std::array<float, kDepth>, 16> left = {};
    std::array<std::array<float, kDepth>, 8> right = {};  // by column
    const auto at = [this](auto registers, FragmentPlace place) {
      return Element(registers(lanes_[place.lane])[place.r], place.half);
    };
    for (int k = 0; k < kDepth; ++k) {
      for (int row = 0; row < 16; ++row) left[row][k] = at(a, PlaceInA(row, k));
      for (int column = 0; column < 8; ++column) right[column][k] = at(b, PlaceInB(k, column));
    }
    for (int l = 0; l < 32; ++l) {
      for (int r = 0; r < 4; ++r) {
        float& sum = c(lanes_[l])[r];
        for (int k = 0; k < kDepth; ++k) sum += left[RowInC(l, r)][k] * right[ColumnInC(l, r)][k];
      }
    }
  }

  template <class Value, class Combine>
  void Quad(Value value, Combine combine) {
    for (int l = 0; l < 32; l += 4) {
      float all = value(lanes_[l]);
      for (int i = 1; i < 4; ++i) all = combine(all, value(lanes_[l + i]));
      for (int i = 0; i < 4; ++i) value(lanes_[l + i]) = all;
    }
  }

 public:
  bool misaligned() const { return misaligned_; }

 private:
  std::vector<std::uint16_t>& shared_;
  std::array<Lane, 32> lanes_ = {};
  bool misaligned_ = false;
};

}  // namespace siglip::cuda
