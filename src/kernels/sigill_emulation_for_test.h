#pragma once

// For test programs that compute instructions which the processor refuses. x86-64 Linux only.

#include <gtest/gtest.h>
#include <signal.h>
#include <ucontext.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>

namespace siglip {

// Executes the instruction at which the context stands; its length in bytes, 0 if it is another
// one.
using EmulateInstruction = int (*)(ucontext_t& context);

// Handles SIGILL by `emulate`, and says at the end how many of `what` there were. One in a program.
class SigillEmulation : public testing::Environment {
 public:
  SigillEmulation(std::string what, EmulateInstruction emulate) : what_(std::move(what)) {
    emulate_ = emulate;
  }

  void SetUp() override {
    struct sigaction action = {};
    action.sa_sigaction = Handle;
    action.sa_flags = SA_SIGINFO;
    ASSERT_EQ(sigaction(SIGILL, &action, nullptr), 0);
  }
  void TearDown() override {
    std::printf("%s emulated: %lld\n", what_.c_str(), static_cast<long long>(emulated_.load()));
  }

 private:
  static void Handle(int, siginfo_t*, void* context) {
    auto& user = *static_cast<ucontext_t*>(context);
    std::int64_t emulated = 0;
    // Those that follow at once, too: the signal takes longer than they do.
    for (int bytes = emulate_(user); bytes != 0; bytes = emulate_(user)) {
      user.uc_mcontext.gregs[REG_RIP] += bytes;
      ++emulated;
    }
    emulated_ += emulated;
    // Otherwise the instruction is met again, and ends the program.
    if (emulated == 0) signal(SIGILL, SIG_DFL);
  }

  std::string what_;
  static inline EmulateInstruction emulate_ = nullptr;
  static inline std::atomic<std::int64_t> emulated_ = 0;
};

}  // namespace siglip
