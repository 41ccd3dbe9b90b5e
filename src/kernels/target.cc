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

struct Target {
  std::int64_t highway = 0;
  bool vnni = false;
};

bool HasVnni([[maybe_unused]] std::int64_t highway) {
#if HWY_ARCH_X86
  if (highway == HWY_AVX3) return CpuHasAvx512Vnni();
  if (highway == HWY_AVX2) return CpuHasAvxVnni();
#endif
  return false;
}

std::string HighwayName(std::int64_t target) {
  if (target == HWY_AVX3) return "avx512";
  std::string name = hwy::TargetName(target);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

std::string NameOf(const Target& target) {
  return HighwayName(target.highway) + (target.vnni ? "-vnni" : "");
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
      if (HasVnni(highway)) targets.push_back({highway, true});
      targets.push_back({highway, false});
    }
    // Arm without AES, which Highway's NEON asks for and nothing here uses: the dispatch then runs
    // what the compiler assumes anyway.
    if (targets.empty()) targets.push_back({HWY_STATIC_TARGET, false});
    return targets;
  }();
  return available;
}

// Whether the target in use is one with VNNI. Written by SelectKernelTarget, read by any thread;
// Highway keeps its part of the choice in such a variable too.
std::atomic<bool>& UsesVnni() {
  static std::atomic<bool> uses_vnni{Available().front().vnni};
  return uses_vnni;
}

}  // namespace

std::vector<std::string> KernelTargets() {
  std::vector<std::string> names;
  for (const Target& target : Available()) names.push_back(NameOf(target));
  return names;
}

std::string PackingTargetName() { return HighwayName(HWY_DYNAMIC_DISPATCH(OwnTarget)()); }

bool KernelUsesVnni() { return UsesVnni().load(std::memory_order_relaxed); }

std::string KernelTargetName() {
  const bool vnni = KernelUsesVnni();
  return NameOf({HWY_DYNAMIC_DISPATCH(OwnTarget)(), vnni});
}

bool SelectKernelTarget(std::string_view name) {
  for (const Target& target : Available()) {
    if (NameOf(target) != name) continue;
    hwy::DisableTargets(target.highway - 1);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    UsesVnni().store(target.vnni, std::memory_order_relaxed);
    return true;
  }
  return false;
}

}  // namespace siglip
#endif  // HWY_ONCE
