#pragma once

// For test programs whose every test should run on the kernels of a given instruction set.

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/gemm.h"
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

// For generators of parameters, which run before any environment is set up: the formats that the
// instruction set of the tests has.
inline std::vector<GemmFormat> FormatsOfTest() {
  const char* isa = std::getenv("SIGLIP_TEST_ISA");
  const std::string name = isa == nullptr ? KernelTargets().front() : isa;
  std::vector<GemmFormat> formats = {GemmFormat::kFp32, GemmFormat::kInt16};
  const bool amx = name.ends_with("-amx");
  if (amx || name.ends_with("-vnni")) formats.push_back(GemmFormat::kInt8);
  if (amx) formats.push_back(GemmFormat::kBf16);
  return formats;
}

inline testing::Environment* const kInstructionSetOfTest =
    testing::AddGlobalTestEnvironment(new InstructionSetOfTest);

}  // namespace siglip
