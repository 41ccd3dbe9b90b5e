// Linked into a test program, this gives a processor the AMX that it lacks: the kernels are told
// that it is there, and what the processor then refuses is computed by a handler of SIGILL. On a
// processor with AMX too, since the program has not asked Linux for its use. x86-64 Linux only.

#include <gtest/gtest.h>
#include <ucontext.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cpu_features.h"
#include "kernels/sigill_emulation_for_test.h"

namespace siglip {

// Instead of those in cpu_features.cc.
bool CpuHasAvx512Vnni() { return false; }
bool CpuHasAvxVnni() { return false; }
bool CpuHasAmx() { return true; }

namespace {

constexpr int kRows = 16;
constexpr int kRowBytes = 64;
constexpr int kTiles = 8;

struct Tile {
  std::uint8_t bytes[kRows][kRowBytes];
};

// What LDTILECFG reads.
struct Config {
  std::uint8_t palette;
  std::uint8_t start_row;
  std::uint8_t reserved[14];
  std::uint16_t row_bytes[16];
  std::uint8_t rows[16];
};
static_assert(sizeof(Config) == kRowBytes);

// Of a thread. Tiles of the size that the kernels use, and of no other. A processor with AMX does
// LDTILECFG and TILERELEASE by itself, as they need no permission.
thread_local Tile tiles[kTiles];

// An instruction with a VEX prefix of three bytes, C4: RXB and map, W vvvv L pp.
struct Instruction {
  int bytes = 0;  // 0: another one
  int opcode = 0;
  int prefix = 0;  // pp: none, 66, F3, F2
  int reg = 0;     // ModRM.reg
  int vvvv = 0;
  bool memory = false;
  int rm = 0;  // without memory
  std::uint8_t* base = nullptr;
  std::int64_t index = 0;  // times the scale
};

// rax to r15 as instructions number them.
std::int64_t Register(const ucontext_t& context, int number) {
  static constexpr int kGregs[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                     REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                     REG_R12, REG_R13, REG_R14, REG_R15};
  return context.uc_mcontext.gregs[kGregs[number]];
}

Instruction Decode(const std::uint8_t* code, const ucontext_t& context) {
  Instruction got;
  // C4, RXB 00010 (map 0F38), 0 vvvv 0 pp: W and L are 0.
  if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || (code[2] & 0x84) != 0) return {};
  const int r = ~code[1] >> 7 & 1;
  const int x = ~code[1] >> 6 & 1;
  const int b = ~code[1] >> 5 & 1;
  got.vvvv = ~code[2] >> 3 & 15;
  got.prefix = code[2] & 3;
  got.opcode = code[3];
  const int mode = code[4] >> 6;
  got.reg = (code[4] >> 3 & 7) + 8 * r;
  got.rm = (code[4] & 7) + 8 * b;
  got.bytes = 5;
  if (mode == 3) return got;
  got.memory = true;
  int base = got.rm;
  if ((code[4] & 7) == 4) {  // SIB
    const int sib = code[got.bytes++];
    base = (sib & 7) + 8 * b;
    const int index = (sib >> 3 & 7) + 8 * x;
    if (index != 4) got.index = Register(context, index) << (sib >> 6);
  }
  if (mode == 0 && (base & 7) == 5) return {};  // no base: not among the kernels' forms
  std::int64_t displacement = 0;
  if (mode == 1) {
    displacement = static_cast<std::int8_t>(code[got.bytes++]);
  } else if (mode == 2) {
    std::int32_t wide = 0;
    std::memcpy(&wide, code + got.bytes, sizeof(wide));
    displacement = wide;
    got.bytes += 4;
  }
  got.base = reinterpret_cast<std::uint8_t*>(Register(context, base) + displacement);
  return got;
}

// sum[m][n] += the products of four 8-bit integers of a[m] and b[.][n], modulo 2^32.
void MultiplyBytes(Tile& sum, const Tile& a, bool a_signed, const Tile& b, bool b_signed) {
  const auto value = [](std::uint8_t byte, bool is_signed) {
    return is_signed ? static_cast<std::int8_t>(byte) : static_cast<int>(byte);
  };
  for (int m = 0; m < kRows; ++m) {
    std::uint32_t sums[kRows];
    std::memcpy(sums, sum.bytes[m], sizeof(sums));
    for (int k = 0; k < kRowBytes; ++k) {
      const int factor = value(a.bytes[m][k], a_signed);
      for (int n = 0; n < kRows; ++n) {
        sums[n] +=
            static_cast<std::uint32_t>(factor * value(b.bytes[k / 4][4 * n + k % 4], b_signed));
      }
    }
    std::memcpy(sum.bytes[m], sums, sizeof(sums));
  }
}

// Denormals count as zero, and become it.
float Flushed(float value) { return std::fpclassify(value) == FP_SUBNORMAL ? 0.0f : value; }
float FromBfloat16(std::uint16_t bits) {
  return Flushed(std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16));
}

// sum[m][n] += the products of bfloat16 of a[m] and b[.][n]: those at even places and those at odd
// ones from zero by fused multiply-adds, then both together.
void MultiplyBfloat16(Tile& sum, const Tile& a, const Tile& b) {
  for (int m = 0; m < kRows; ++m) {
    std::uint16_t row[2 * kRows];
    float sums[kRows];
    std::memcpy(row, a.bytes[m], sizeof(row));
    std::memcpy(sums, sum.bytes[m], sizeof(sums));
    for (int n = 0; n < kRows; ++n) {
      float parts[2] = {};
      for (int k = 0; k < 2 * kRows; ++k) {
        std::uint16_t column = 0;
        std::memcpy(&column, b.bytes[k / 2] + 4 * n + 2 * (k % 2), sizeof(column));
        parts[k % 2] = Flushed(std::fma(FromBfloat16(row[k]), FromBfloat16(column), parts[k % 2]));
      }
      sums[n] = Flushed(Flushed(sums[n]) + Flushed(parts[0] + parts[1]));
    }
    std::memcpy(sum.bytes[m], sums, sizeof(sums));
  }
}

bool Configure(const std::uint8_t* memory) {
  Config config;
  std::memcpy(&config, memory, sizeof(config));
  for (int i = 0; i < kTiles; ++i) {
    if (config.rows[i] != kRows || config.row_bytes[i] != kRowBytes) return false;
  }
  std::memset(tiles, 0, sizeof(tiles));
  return config.palette == 1 && config.start_row == 0;
}

// False: not an instruction of AMX, or one that is an error.
bool Execute(const Instruction& it) {
  enum Prefix { kNone, k66, kF3, kF2 };
  if (it.opcode == 0x49 && it.prefix == kNone && it.memory) return Configure(it.base);
  if (it.reg >= kTiles) return false;
  Tile& tile = tiles[it.reg];
  switch (it.opcode) {
    case 0x49:
      if (it.memory) return false;
      if (it.prefix == kF2) std::memset(&tile, 0, sizeof(tile));  // TILEZERO
      return it.prefix == kNone || it.prefix == kF2;              // TILERELEASE
    case 0x4B:
      if (!it.memory) return false;
      for (int row = 0; row < kRows; ++row) {
        std::uint8_t* at = it.base + row * it.index;
        if (it.prefix == kF2) std::memcpy(tile.bytes[row], at, kRowBytes);  // TILELOADD
        if (it.prefix == kF3) std::memcpy(at, tile.bytes[row], kRowBytes);  // TILESTORED
      }
      return it.prefix == kF2 || it.prefix == kF3;
    case 0x5C:    // TDPBF16PS
    case 0x5E: {  // TDPBSSD, TDPBSUD, TDPBUSD, TDPBUUD
      if (it.memory || it.rm >= kTiles || it.vvvv >= kTiles) return false;
      const Tile& a = tiles[it.rm];
      const Tile& b = tiles[it.vvvv];
      if (it.opcode == 0x5C) {
        if (it.prefix == kF3) MultiplyBfloat16(tile, a, b);
        return it.prefix == kF3;
      }
      MultiplyBytes(tile, a, it.prefix == kF2 || it.prefix == kF3, b,
                    it.prefix == kF2 || it.prefix == k66);
      return true;
    }
    default:
      return false;
  }
}

int Emulate(ucontext_t& context) {
  const auto* code = reinterpret_cast<const std::uint8_t*>(context.uc_mcontext.gregs[REG_RIP]);
  const Instruction instruction = Decode(code, context);
  return instruction.bytes != 0 && Execute(instruction) ? instruction.bytes : 0;
}

testing::Environment* const kAmxEmulation =
    testing::AddGlobalTestEnvironment(new SigillEmulation("instructions of AMX", Emulate));

}  // namespace
}  // namespace siglip
