#pragma once

// For test programs whose every test should run on the kernels of a given instruction set.

#include <gtest/gtest.h>

#include <cstdlib>

#include "kernels/target.h"

namespace siglip {

// SIGLIP_TEST_ISA=avx2 runs a test program on the kernels of that instruction set.
class InstructionSetOfTest : public testing::Environment {
 public:
  void SetUp() override {
    const char* isa = std::getenv("SIGLIP_TEST_ISA");
    if (isa == nullptr) return;
    if (!SelectKernelTarget(isa)) GTEST_SKIP() << "SIGLIP_TEST_SKIPPED: this machine has no " << isa;
    ASSERT_EQ(KernelTargetName(), isa);
  }
};
inline testing::Environment* const kInstructionSetOfTest =
    testing::AddGlobalTestEnvironment(new InstructionSetOfTest);

}  // namespace siglip
