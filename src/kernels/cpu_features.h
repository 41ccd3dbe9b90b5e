#pragma once

// What Highway 1.0.3 does not ask the processor for. Private to src/kernels. False on other than
// x86.

namespace siglip {

// vpdpwssd on the 512-bit registers of a processor that Highway calls AVX3: Cascade Lake, Ice Lake,
// Zen 4 and later.
bool CpuHasAvx512Vnni();
// vpdpwssd on the 256-bit registers of one that Highway calls AVX2: Alder Lake and later.
bool CpuHasAvxVnni();

}  // namespace siglip
