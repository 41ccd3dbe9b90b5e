#include "kernels/cpu_features.h"

#include "hwy/base.h"

#if HWY_ARCH_X86
#include <cpuid.h>
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

}  // namespace

bool CpuHasAvx512Vnni() { return (ReadLeaf7(0).ecx >> 11 & 1) != 0; }
bool CpuHasAvxVnni() { return (ReadLeaf7(1).eax >> 4 & 1) != 0; }

}  // namespace siglip
