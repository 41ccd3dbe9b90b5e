#include "kernels/target.h"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu_features.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/target.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace siglip {
namespace HWY_NAMESPACE {
std::int64_t OwnTarget() { return HWY_TARGET; }
}  // namespace HWY_NAMESPACE
}  // namespace siglip
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace siglip {
HWY_EXPORT(OwnTarget);

namespace {

// What multiplies integers.
enum class Integers { kVectors, kVnni, kAmx };

struct Target {
  std::int64_t highway = 0;
  Integers integers = Integers::kVectors;
};

bool HasVnni([[maybe_unused]] std::int64_t highway) {
#if HWY_ARCH_X86
  if (highway == HWY_AVX3) return CpuHasAvx512Vnni();
  if (highway == HWY_AVX2) return CpuHasAvxVnni();
#endif
  return false;
}

// No processor has AMX and not AVX-512; but one that can be made to believe in AMX may
// (amx_emulation_for_test.cc).
bool HasAmx([[maybe_unused]] std::int64_t highway) {
#if HWY_ARCH_X86
  static const bool has_amx = CpuHasAmx();
  return has_amx && (highway == HWY_AVX3 || highway == HWY_AVX2);
#else
  return false;
#endif
}

std::string HighwayName(std::int64_t target) {
  if (target == HWY_AVX3) return "avx512";
  std::string name = hwy::TargetName(target);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

std::string NameOf(const Target& target) {
  const char* suffix = "";
  if (target.integers == Integers::kVnni) suffix = "-vnni";
  if (target.integers == Integers::kAmx) suffix = "-amx";
  return HighwayName(target.highway) + suffix;
}

// Best first: of Highway's targets the better have the lower bits. Asked once, and the choice is
// made at once: Highway 1.0.3 forgets one when it is asked what there is, and on Arm chooses SVE of
// any width, which is not built.
const std::vector<Target>& Available() {
  static const std::vector<Target> available = [] {
    std::vector<Target> targets;
    const std::int64_t supported = hwy::SupportedTargets();
    hwy::GetChosenTarget().Update(supported);
    for (std::int64_t rest = supported & HWY_TARGETS; rest != 0; rest &= rest - 1) {
      const std::int64_t highway = rest & -rest;
      if (HasAmx(highway)) targets.push_back({highway, Integers::kAmx});
      if (HasVnni(highway)) targets.push_back({highway, Integers::kVnni});
      targets.push_back({highway, Integers::kVectors});
    }
    // Arm without AES, which Highway's NEON asks for and nothing here uses: the dispatch then runs
    // what the compiler assumes anyway.
    if (targets.empty()) targets.push_back({HWY_STATIC_TARGET, Integers::kVectors});
    return targets;
  }();
  return available;
}

// Of the target in use. Written by SelectKernelTarget, read by any thread; Highway keeps its part
// of the choice in such a variable too.
std::atomic<Integers>& IntegersInUse() {
  static std::atomic<Integers> integers{Available().front().integers};
  return integers;
}

}  // namespace

std::vector<std::string> KernelTargets() {
  std::vector<std::string> names;
  for (const Target& target : Available()) names.push_back(NameOf(target));
  return names;
}

std::string VectorTargetName() { return HighwayName(HWY_DYNAMIC_DISPATCH(OwnTarget)()); }

bool KernelUsesVnni() { return IntegersInUse().load(std::memory_order_relaxed) == Integers::kVnni; }

bool KernelUsesAmx() { return IntegersInUse().load(std::memory_order_relaxed) == Integers::kAmx; }

std::string KernelTargetName() {
  const Integers integers = IntegersInUse().load(std::memory_order_relaxed);
  return NameOf({HWY_DYNAMIC_DISPATCH(OwnTarget)(), integers});
}

bool SelectKernelTarget(std::string_view name) {
  for (const Target& target : Available()) {
    if (NameOf(target) != name) continue;
    hwy::DisableTargets(target.highway - 1);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    IntegersInUse().store(target.integers, std::memory_order_relaxed);
    return true;
  }
  return false;
}

}  // namespace siglip
#endif  // HWY_ONCE
