#pragma once

// The instruction set that the kernels use: the best that this machine has and this build knows.

#include <string>
#include <string_view>
#include <vector>

namespace siglip {

// "avx512-amx", "avx512-vnni", "avx512", "avx2-amx", "avx2-vnni", "avx2", "sse4", "scalar", "neon",
// ...: what can be chosen here, best first. With "-vnni" products of integers take one instruction
// instead of two; nothing else differs, and no bit of a result does. With "-amx" they are computed
// on tiles, of matrices that are packed otherwise; no bit of a linear layer differs. Attention in
// int16 does more on tiles, see attention.h.
std::vector<std::string> KernelTargets();
// The one in use.
std::string KernelTargetName();
// Its name without "-vnni" and "-amx": what float32 depends on.
std::string VectorTargetName();
bool KernelUsesVnni();
bool KernelUsesAmx();
// Uses `name` and nothing better from here on; false if it cannot run here. REQUIRES: nothing has
// been packed yet, since packed matrices have the layout of one instruction set. Not thread-safe.
[[nodiscard]] bool SelectKernelTarget(std::string_view name);

}  // namespace siglip
