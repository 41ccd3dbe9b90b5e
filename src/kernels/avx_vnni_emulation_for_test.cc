// Linked into a test program, this gives processors with AVX2 the AVX-VNNI that they lack: the
// kernels are told that it is there, and what the processor then refuses, vpdpwssd on 256-bit
// registers, is computed by a handler of SIGILL. x86-64 Linux only.

#include <gtest/gtest.h>
#include <signal.h>
#include <ucontext.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu_features.h"

namespace siglip {

// Instead of those in cpu_features.cc.
bool CpuHasAvx512Vnni() { return false; }
bool CpuHasAvxVnni() { return true; }

namespace {

// A frame of a signal holds the registers as XSAVE writes them: the lower halves at 160, which
// parts are not in their initial state at 512, the upper halves at 576.
constexpr int kLowerHalves = 160;
constexpr int kPartsInUse = 512;
constexpr int kUpperHalves = 576;
constexpr std::uint64_t kSsePart = 2;
constexpr std::uint64_t kAvxPart = 4;

class Registers {
 public:
  explicit Registers(ucontext_t* context)
      : memory_(reinterpret_cast<std::uint8_t*>(context->uc_mcontext.fpregs)) {
    std::uint64_t parts = 0;
    std::memcpy(&parts, memory_ + kPartsInUse, sizeof(parts));
    if ((parts & kAvxPart) == 0) std::memset(memory_ + kUpperHalves, 0, 16 * 16);
    parts |= kSsePart | kAvxPart;
    std::memcpy(memory_ + kPartsInUse, &parts, sizeof(parts));
  }

  template <class Value>
  void Read(int index, Value (&to)[32 / sizeof(Value)]) const {
    std::memcpy(to, memory_ + kLowerHalves + 16 * index, 16);
    std::memcpy(reinterpret_cast<char*>(to) + 16, memory_ + kUpperHalves + 16 * index, 16);
  }
  void Write(int index, const std::int32_t (&from)[8]) {
    std::memcpy(memory_ + kLowerHalves + 16 * index, from, 16);
    std::memcpy(memory_ + kUpperHalves + 16 * index, from + 4, 16);
  }

 private:
  std::uint8_t* memory_;
};

std::int64_t g_emulated = 0;

// VEX.256.66.0F38.W0 52 /r with registers: C4, ~R ~X ~B 00010, 0 ~vvvv 1 01, 52, 11 reg rm.
void HandleIllegalInstruction(int, siginfo_t*, void* context) {
  auto* user = static_cast<ucontext_t*>(context);
  greg_t& instruction_pointer = user->uc_mcontext.gregs[REG_RIP];
  const auto* code = reinterpret_cast<const std::uint8_t*>(instruction_pointer);
  const bool known = code[0] == 0xC4 && (code[1] & 0x1F) == 2 && (code[2] & 0x87) == 5 &&
                     code[3] == 0x52 && (code[4] & 0xC0) == 0xC0;
  if (!known) {
    signal(SIGILL, SIG_DFL);  // the instruction is met again, and ends the program
    return;
  }
  Registers registers(user);
  const int sum_index = (code[4] >> 3 & 7) | ((code[1] & 0x80) == 0 ? 8 : 0);
  std::int32_t sum[8];
  std::int16_t a[16];
  std::int16_t b[16];
  registers.Read(sum_index, sum);
  registers.Read(~code[2] >> 3 & 15, a);
  registers.Read((code[4] & 7) | ((code[1] & 0x20) == 0 ? 8 : 0), b);
  for (int i = 0; i < 8; ++i) {
    const std::int64_t products =
        std::int64_t{a[2 * i]} * b[2 * i] + std::int64_t{a[2 * i + 1]} * b[2 * i + 1];
    // Modulo 2^32, as the instruction does.
    sum[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sum[i] + products));
  }
  registers.Write(sum_index, sum);
  instruction_pointer += 5;
  ++g_emulated;
}

class AvxVnniEmulation : public testing::Environment {
 public:
  void SetUp() override {
    struct sigaction action = {};
    action.sa_sigaction = HandleIllegalInstruction;
    action.sa_flags = SA_SIGINFO;
    ASSERT_EQ(sigaction(SIGILL, &action, nullptr), 0);
  }
  void TearDown() override {
    std::printf("vpdpwssd emulated: %lld\n", static_cast<long long>(g_emulated));
  }
};
testing::Environment* const kAvxVnniEmulation =
    testing::AddGlobalTestEnvironment(new AvxVnniEmulation);

}  // namespace
}  // namespace siglip
