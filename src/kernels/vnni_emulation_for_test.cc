// Linked into a test program, this gives a processor the VNNI that it lacks: the kernels are told
// that it is there, and what the processor then refuses, vpdpwssd and vpdpbusd on 256-bit registers
// (AVX-VNNI, where there is AVX2) or on 512-bit ones (AVX512_VNNI, where there is AVX-512), is
// computed by a handler of SIGILL. x86-64 Linux only.

#include <cpuid.h>
#include <gtest/gtest.h>
#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "kernels/cpu_features.h"
#include "kernels/sigill_emulation_for_test.h"

namespace siglip {

// Instead of those in cpu_features.cc.
bool CpuHasAvx512Vnni() { return true; }
bool CpuHasAvxVnni() { return true; }
bool CpuHasAmx() { return false; }

namespace {

// A frame of a signal holds the registers as XSAVE writes them: each part (its number is that of
// XCR0's bit) at an offset that CPUID tells, and which of them are not in their initial state at
// 512.
constexpr int kPartsInUse = 512;
constexpr int kLowerHalves = 160;     // of registers 0 to 15: 16 bytes each
constexpr unsigned kUpperHalves = 2;  // bytes 16 to 31 of registers 0 to 15
constexpr unsigned kUpper256 = 6;     // bytes 32 to 63 of registers 0 to 15
constexpr unsigned kHigh16 = 7;       // all 64 bytes of registers 16 to 31

struct Part {
  unsigned bytes = 0;
  unsigned offset = 0;
};

Part ReadPart(unsigned part) {
  Part read;
  unsigned unused = 0;
  __cpuid_count(0xD, part, read.bytes, read.offset, unused, unused);
  return read;
}

// The vector registers in a frame, 64 bytes each.
class Registers {
 public:
  // `parts`: those that will be read or written besides the lower halves.
  Registers(ucontext_t* context, std::initializer_list<unsigned> parts)
      : memory_(reinterpret_cast<std::uint8_t*>(context->uc_mcontext.fpregs)) {
    std::uint64_t in_use = 0;
    std::memcpy(&in_use, memory_ + kPartsInUse, sizeof(in_use));
    for (const unsigned part : parts) {
      offsets_[part] = ReadPart(part).offset;
      if ((in_use >> part & 1) == 0) std::memset(memory_ + offsets_[part], 0, ReadPart(part).bytes);
      in_use |= std::uint64_t{1} << part;
    }
    in_use |= 2;  // the lower halves
    std::memcpy(memory_ + kPartsInUse, &in_use, sizeof(in_use));
  }

  // Sixteen bytes of a register, the quarter-th.
  std::uint8_t* Quarter(int index, int quarter) const {
    if (index >= 16) return memory_ + offsets_[kHigh16] + 64 * (index - 16) + 16 * quarter;
    if (quarter == 0) return memory_ + kLowerHalves + 16 * index;
    if (quarter == 1) return memory_ + offsets_[kUpperHalves] + 16 * index;
    return memory_ + offsets_[kUpper256] + 32 * index + 16 * (quarter - 2);
  }

 private:
  std::uint8_t* memory_;
  unsigned offsets_[8] = {};
};

struct Instruction {
  int bytes = 0;  // 0: another one
  bool of_bytes = false;
  int quarters = 0;
  int sum = 0;
  int a = 0;
  int b = 0;
};

constexpr int kVpdpbusd = 0x50;
constexpr int kVpdpwssd = 0x52;

// Either between registers, unmasked. The prefix holds most bits inverted.
Instruction Decode(const std::uint8_t* code) {
  const auto known = [](int opcode) { return opcode == kVpdpbusd || opcode == kVpdpwssd; };
  const auto bit = [&](int byte, int at) { return ~code[byte] >> at & 1; };
  // VEX.256.66.0F38.W0: C4, RXB 00010, 0 vvvv 1 01, opcode, 11 reg rm.
  if (code[0] == 0xC4 && (code[1] & 0x1F) == 2 && (code[2] & 0x87) == 5 && known(code[3]) &&
      code[4] >= 0xC0) {
    return {.bytes = 5,
            .of_bytes = code[3] == kVpdpbusd,
            .quarters = 2,
            .sum = (code[4] >> 3 & 7) + 8 * bit(1, 7),
            .a = ~code[2] >> 3 & 15,
            .b = (code[4] & 7) + 8 * bit(1, 5)};
  }
  // EVEX.512.66.0F38.W0: 62, RXBR' 0010, 0 vvvv 1 01, 0 10 0 V' 000, opcode, 11 reg rm.
  if (code[0] == 0x62 && (code[1] & 0x0F) == 2 && (code[2] & 0x87) == 5 &&
      (code[3] & 0xF7) == 0x40 && known(code[4]) && code[5] >= 0xC0) {
    return {.bytes = 6,
            .of_bytes = code[4] == kVpdpbusd,
            .quarters = 4,
            .sum = (code[5] >> 3 & 7) + 8 * bit(1, 7) + 16 * bit(1, 4),
            .a = (~code[2] >> 3 & 15) + 16 * bit(3, 3),
            .b = (code[5] & 7) + 8 * bit(1, 5) + 16 * bit(1, 6)};
  }
  return {};
}

// Four sums of as many products as four bytes hold, modulo 2^32.
template <class A, class B>
void MultiplyQuarter(const std::uint8_t* a_bytes, const std::uint8_t* b_bytes,
                     std::uint8_t* sum_bytes) {
  static_assert(sizeof(A) == sizeof(B));
  constexpr int kProducts = 4 / sizeof(A);
  A a[4 * kProducts];
  B b[4 * kProducts];
  std::uint32_t sum[4];
  std::memcpy(a, a_bytes, sizeof(a));
  std::memcpy(b, b_bytes, sizeof(b));
  std::memcpy(sum, sum_bytes, sizeof(sum));
  for (int i = 0; i < 4 * kProducts; ++i) {
    sum[i / kProducts] += static_cast<std::uint32_t>(a[i] * b[i]);
  }
  std::memcpy(sum_bytes, sum, sizeof(sum));
}

int Emulate(ucontext_t& context) {
  const auto* code = reinterpret_cast<const std::uint8_t*>(context.uc_mcontext.gregs[REG_RIP]);
  const Instruction instruction = Decode(code);
  if (instruction.bytes == 0) return 0;
  const Registers registers = instruction.quarters == 2
                                  ? Registers(&context, {kUpperHalves})
                                  : Registers(&context, {kUpperHalves, kUpper256, kHigh16});
  const auto multiply = instruction.of_bytes ? MultiplyQuarter<std::uint8_t, std::int8_t>
                                             : MultiplyQuarter<std::int16_t, std::int16_t>;
  for (int quarter = 0; quarter < instruction.quarters; ++quarter) {
    multiply(registers.Quarter(instruction.a, quarter), registers.Quarter(instruction.b, quarter),
             registers.Quarter(instruction.sum, quarter));
  }
  return instruction.bytes;
}

testing::Environment* const kVnniEmulation =
    testing::AddGlobalTestEnvironment(new SigillEmulation("vpdpwssd and vpdpbusd", Emulate));

}  // namespace
}  // namespace siglip
