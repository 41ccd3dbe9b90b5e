#include "kernels/cpu_features.h"

#include "hwy/base.h"

#if HWY_ARCH_X86
#include <asm/prctl.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace siglip {
namespace {

struct Leaf7 {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
};

Leaf7 ReadLeaf7([[maybe_unused]] unsigned subleaf) {
  Leaf7 leaf;
#if HWY_ARCH_X86
  if (__get_cpuid_count(7, 0, &leaf.eax, &leaf.ebx, &leaf.ecx, &leaf.edx) == 0) return {};
  if (subleaf > leaf.eax) return {};
  __cpuid_count(7, subleaf, leaf.eax, leaf.ebx, leaf.ecx, leaf.edx);
#endif
  return leaf;
}

#if HWY_ARCH_X86
constexpr long kTileData = 18;  // the bit in XCR0

// Whether the system saves and restores the tiles' configuration and data.
bool SystemKnowsTiles() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx >> 27 & 1) == 0) return false;  // OSXSAVE
  unsigned low = 0, high = 0;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low >> 17 & 3) == 3;
}
#endif

}  // namespace

bool CpuHasAmx() {
#if HWY_ARCH_X86
  const unsigned leaf = ReadLeaf7(0).edx;
  const bool present = (leaf >> 22 & 1) != 0 && (leaf >> 24 & 3) == 3;  // BF16, TILE and INT8
  return present && SystemKnowsTiles() &&
         syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, kTileData) == 0;
#else
  return false;
#endif
}
bool CpuHasAvx512Vnni() { return (ReadLeaf7(0).ecx >> 11 & 1) != 0; }
bool CpuHasAvxVnni() { return (ReadLeaf7(1).eax >> 4 & 1) != 0; }

}  // namespace siglip
