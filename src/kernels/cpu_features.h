#pragma once

// What Highway 1.0.3 does not ask the processor for. Private to src/kernels. False on other than
// x86.

namespace siglip {

// vpdpwssd on the 512-bit registers of a processor that Highway calls AVX3: Cascade Lake, Ice Lake,
// Zen 4 and later.
bool CpuHasAvx512Vnni();
// vpdpwssd on the 256-bit registers of one that Highway calls AVX2: Alder Lake and later.
bool CpuHasAvxVnni();
// Tiles with products of 8-bit integers (AMX-INT8) and of bfloat16 (AMX-BF16): Sapphire Rapids and
// later. True only if Linux lets this process use them, which is asked for by this call; the
// permission holds for all its threads and is inherited by fork.
bool CpuHasAmx();

}  // namespace siglip
