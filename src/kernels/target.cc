#include "kernels/target.h"

#include <algorithm>
#include <cctype>
#include <cstdint>

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

std::string NameOf(std::int64_t target) {
  if (target == HWY_AVX3) return "avx512";
  std::string name = hwy::TargetName(target);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

// Of Highway's targets, of which the better have the lower bits. Asked once: Highway 1.0.3 forgets
// a choice when it is asked again.
const std::vector<std::int64_t>& Available() {
  static const std::vector<std::int64_t> available = [] {
    std::vector<std::int64_t> targets;
    for (std::int64_t rest = hwy::SupportedTargets() & HWY_TARGETS; rest != 0; rest &= rest - 1) {
      targets.push_back(rest & -rest);
    }
    return targets;
  }();
  return available;
}

}  // namespace

std::vector<std::string> KernelTargets() {
  std::vector<std::string> names;
  for (const std::int64_t target : Available()) names.push_back(NameOf(target));
  return names;
}

std::string KernelTargetName() { return NameOf(HWY_DYNAMIC_DISPATCH(OwnTarget)()); }

bool SelectKernelTarget(std::string_view name) {
  for (const std::int64_t target : Available()) {
    if (NameOf(target) != name) continue;
    hwy::DisableTargets(target - 1);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    return true;
  }
  return false;
}

}  // namespace siglip
#endif  // HWY_ONCE
